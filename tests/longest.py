"""In which order, and together with which others, `make test` hands out the files of tests."""

LONGEST = (
    "server/test_train.py",
    "docs/test_calls.py",
    "docs/test_python.py",
    "agent_evals/test_tasks.py",
    "docs/test_landmarks.py",
    "server/test_offline.py",
    "core/steering/test_steer.py",
    "core/training/test_run.py",
    "server/test_features.py",
    "core/test_stack.py",
    "core/attribution/test_attribute.py",
    "core/formats/test_hostile_files.py",
    "core/models/test_tokens.py",
    "core/evals/test_evaluate.py",
    "core/test_origin.py",
    "attack/test_families.py",
    "core/training/test_trainer.py",
    "core/models/test_loading.py",
    "attack/test_escapes.py",
    "core/saes/test_reference.py",
    "core/test_splice.py",
    "core/formats/test_sites_in_models.py",
    "core/evals/test_check.py",
    "core/training/test_defaults.py",
    "core/formats/test_bad_files.py",
    "server/test_texts_file.py",
    "attack/test_own_files.py",
    "server/test_index.py",
    "server/test_evaluate.py",
    "server/test_damaged_records.py",
    "core/steering/test_intervene.py",
    "core/activations/test_store.py",
    "core/activations/test_shards.py",
)
"""The files that take longest, longest first: with `--no-loadscope-reorder` pytest-xdist hands them
out in this order."""

SHARING = (
    ("server/test_train.py", "server/test_index.py", "agent_evals/test_tasks.py"),
    (
        "core/models/test_tokens.py",
        "core/evals/test_check.py",
        "core/features/index/test_build.py",
        "core/test_sinks.py",
    ),
)
"""Files that one process runs, one after the other: what they share takes long to set up (the
process that forks workers, the embedded model)."""
