"""The tools as commands of a shell: what the shipped list of tools says of each, and what only a
person needs. Standard library only: help and completion wait for nothing."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Schema = Mapping[str, Any]
_LIST = Path(__file__).parents[1] / "tools.json"

_ORDER = (
    "start",
    "read",
    "explain",
    "circuits",
    "know",
    "steer",
    "bench",
    "train",
    "judge",
    "publish",
    "record",
    "serve",
)
_OF_NO_GROUP: Mapping[str, tuple[str, ...]] = {
    "start": ("demo", "doctor", "find_saes", "load_sae"),
    "train": ("job_status", "cancel_job"),
    "read": ("view", "warm"),
    "serve": ("serve", "server_status", "unload"),
}
"""Where a person looks for what every server has, and for what is no tool."""
SHORT: Mapping[str, str] = {
    "find_saes": "Published SAEs by model, layer, site or words.",
    "load_sae": "Check that an SAE loads and fits its model.",
    "encode_text": "Which features fire at each token of a text.",
    "top_features": "The strongest features of a text, or of a contrast.",
    "attribute_logit": "Which features a prediction rests on, measured.",
    "trace_circuit": "Through which features a prediction comes about.",
    "compare_prompts": "Which features make two prompts predict different tokens.",
    "intervene": "What changing features does to the next token.",
    "describe_feature": "What one feature fires on and promotes.",
    "find_features": "Features by label, token, texts, contrast or effect.",
    "index_features": "Read a corpus once; the others look features up in it.",
    "quiz_feature": "A blind test of what you think a feature is.",
    "label_feature": "Name a feature, with the answers of a quiz.",
    "steer_generate": "Continue a text with features changed, beside it plain.",
    "steer_search": "How strongly to push features for a concept, tested.",
    "train_sae": "Train an SAE on your own model and text.",
    "job_status": "How trainings and indexings are doing.",
    "cancel_job": "Stop one; its checkpoint is kept.",
    "evaluate_sae": "How good an SAE is, with intervals and baselines.",
    "publish_sae": "Write an SAE with a model card, to a folder or the hub.",
    "results": "Earlier results: by id, or a list.",
    "claim": "What earlier results allow you to say of a feature.",
    "export_report": "Results as a report that runs again; or check one.",
    "server_status": "What is cached and allowed here.",
    "unload": "Free memory (in a server: a command frees its own).",
}
"""What each is for, on one line of the list of commands."""
OUTLIVE = ("train_sae", "index_features")
"""What these start keeps running when the command has ended."""
WAITS = (*OUTLIVE, "job_status")
PAGED = ("trace_circuit",)
"""These make a page without being asked for one."""
LOADING = ("path", "release", "sae_id", "revision", "model", "hook_name", "gate")
"""Arguments of load_sae that every command on an SAE takes."""

_KEYS = "My sister lost her keys and called our mother because"
EXAMPLES: Mapping[str, str] = {
    "find_saes": "find-saes --model gpt2-small --site resid_pre --layer 8",
    "load_sae": "load-sae --release gpt2-small-res-jb --sae-id blocks.8.hook_resid_pre",
    "unload": "unload --handle smollm2-135m",
    "server_status": "server-status",
    "job_status": "job-status --job-id train-1a2b3c --open",
    "encode_text": 'encode-text --text "Mary said that she had lost her keys."',
    "top_features": 'top-features --text "Mary said that she had lost her keys."',
    "attribute_logit": f'attribute-logit --prompt "{_KEYS}" --target " she" --against " he"',
    "trace_circuit": f'trace-circuit --prompt "{_KEYS}" --targets " she" --against " he" --open',
    "compare_prompts": (
        'compare-prompts --a "The man said that" --b "The woman said that" '
        '--target " she" --against " he"'
    ),
    "intervene": f'intervene --prompt "{_KEYS}" --edit 4432:ablate --target " she"',
    "steer_generate": (
        'steer-generate --prompt "I went to the window and saw" --feature 4432=0.8 '
        '--concept-tokens " she"'
    ),
    "steer_search": 'steer-search --feature 4432 --concept " she" --concept " woman"',
    "index_features": "index-features --dataset texts.jsonl --n-tokens 200000",
    "describe_feature": "describe-feature --feature 4432 --open",
    "find_features": 'find-features --tokens " she" --tokens " woman"',
    "quiz_feature": "quiz-feature --feature 4432",
    "label_feature": 'label-feature --feature 4432 --text "women and girls"',
    "train_sae": "train-sae --hook-name blocks.14.hook_resid_post --training-tokens 500000",
    "cancel_job": "cancel-job --job-id train-1a2b3c",
    "evaluate_sae": "evaluate-sae --n-tokens 5000 --open",
    "results": "results --tool attribute_logit --day 2026-11",
    "claim": (
        'claim --text "Feature 4432 raises the probability of she." --feature 4432 '
        '--effect " she" --direction raises --level controlled --results 0123456789ab'
    ),
    "export_report": "export-report --investigation sea-feature --path report",
    "publish_sae": "publish-sae --sae smollm2-135m/14.resid_post --path my-sae",
}
"""A command of each tool that works, without the name of the program."""

_ONE_OF: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "encode_text": (("text", "texts", "texts_file", "dataset"),),
    "top_features": (("text", "texts", "texts_file"),),
    "intervene": (("prompt", "prompts"),),
    "steer_generate": (("prompt", "prompts"),),
    "describe_feature": (("feature", "features", "labels_file"),),
    "find_features": (("query", "tokens", "texts", "texts_file", "causes", "metric", "match"),),
    "train_sae": (("hook_name", "resume"),),
    "publish_sae": (("sae", "job_id"), ("repo_id", "path")),
    "claim": (("results", "investigation"),),
    "export_report": (("check", "path"),),
}
"""Arguments of which a call needs one; a schema does not say so."""


@dataclass(frozen=True)
class Verb:
    """A tool as a command."""

    tool: str
    title: str
    description: str
    properties: Mapping[str, Schema]
    required: tuple[str, ...]
    group: str = ""

    @property
    def command(self) -> str:
        return self.tool.replace("_", "-")

    @cached_property
    def loads_first(self) -> bool:
        """Whether it works on SAEs in memory: it cannot do without a handle then, or takes
        several."""
        items = (schema.get("items", {}) for schema in self.properties.values())
        return (
            "sae" in self.required
            or "saes" in self.properties
            or any("sae" in item.get("properties", {}) for item in items)
        )

    @cached_property
    def needed(self) -> tuple[tuple[str, ...], ...]:
        """What must be given, each with what may stand for it; without an SAE the embedded one is
        meant."""
        alone = (name for name in self.required if name != "sae" or not self.loads_first)
        return (*((name,) for name in alone), *_ONE_OF.get(self.tool, ()))

    @cached_property
    def options(self) -> tuple[str, ...]:
        """Its arguments that have a meaning in a shell, in the order in which a person wants them:
        a job of this process ends with the command, so nothing could be asked about it later."""
        return tuple(
            name
            for name in _ordered(list(self.properties))
            if not (name == "sae" and "saes" in self.properties)
            and (name != "wait_s" or self.tool in WAITS)
        )

    @property
    def draws(self) -> bool:
        """Whether it makes a page or a picture, or can make one."""
        return "picture" in self.properties or self.tool in PAGED

    def missing(self, given: Iterable[str]) -> list[tuple[str, ...]]:
        there = set(given)
        return [names for names in self.needed if not there.intersection(names)]


_AFTER = {
    "texts_file": "texts",
    "texts_column": "texts",
    "against": "texts",
    "against_file": "texts",
    "against_column": "texts",
}
"""Arguments that many tools share, and the one that they follow where the tool has it."""


def _ordered(names: list[str]) -> list[str]:
    """What many tools share comes after what it belongs to, the detail of the reply at the end."""

    def place(name: str) -> tuple[bool, int, bool]:
        after = _AFTER.get(name, name)
        follows = after in names and after != name
        return name == "response_format", names.index(after if follows else name), follows

    return sorted(names, key=place)


def _verb(tool: str, listed: Schema) -> Verb:
    schema = listed["inputSchema"]
    return Verb(
        tool,
        listed["annotations"]["title"],
        listed["description"],
        schema["properties"],
        tuple(schema.get("required", ())),
        listed["group"],
    )


VERBS: Mapping[str, Verb] = {
    name: _verb(name, listed)
    for name, listed in json.loads(_LIST.read_text(encoding="utf-8")).items()
    if listed["group"]  # use_tools, of none, is for clients of a server
}

GROUPS: Mapping[str, tuple[str, ...]] = {
    group: (
        *(verb.tool for verb in VERBS.values() if verb.group == group),
        *_OF_NO_GROUP.get(group, ()),
    )
    for group in _ORDER
}
"""Commands by what they are for; a tool is in the group by which a server is told to offer it."""
