"""The files of tests that take longest, longest first: with `--no-loadscope-reorder` pytest-xdist
hands them out in this order."""

LONGEST = (
    "server/test_train.py",
    "docs/test_calls.py",
    "core/steering/test_steer.py",
    "core/attribution/test_attribute.py",
    "core/formats/test_hostile_files.py",
    "core/formats/test_bad_files.py",
    "docs/test_python.py",
    "core/training/test_run.py",
    "core/test_stack.py",
    "agent_evals/test_tasks.py",
    "server/test_texts_file.py",
    "core/test_splice.py",
    "attack/test_own_files.py",
    "attack/test_full_disk.py",
    "core/training/test_trainer.py",
    "server/test_offline.py",
    "server/test_index.py",
    "core/saes/test_reference.py",
    "attack/test_escapes.py",
    "core/training/test_defaults.py",
    "server/test_damaged_records.py",
    "core/steering/test_intervene.py",
)
