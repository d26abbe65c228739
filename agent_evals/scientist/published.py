"""The published settings: tasks, texts and reference strengths are read from a checkout of the
public repository; the model and the SAEs come from the hub. Needs a GPU for Gemma-2-9B-IT (18 GB in
bfloat16, held twice: by the server and by the judge) and SAEs of 131,072 features."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_evals.scientist.wish import Examples, Ground, Hidden, Wish

INDEX = "data/benchmark.json"


def published_grounds(
    checkout: Path, *, model: str = "", saes: Path | None = None
) -> Iterator[Ground]:
    """A ground for each SAE that the index names, in its order.

    `model` replaces the model that the index names by a folder or another name; `saes` is a folder
    that holds the SAEs under the paths of the index.

    Raises:
        ValueError: the folder has no index of tasks, or a task lacks texts or a reference.
    """
    if not (checkout / INDEX).is_file():
        raise ValueError(
            f"{str(checkout)!r} has no {INDEX}. Give the folder of a checkout of "
            "https://github.com/Trae1ounG/SAEScientist."
        )
    index = _read(checkout / INDEX)
    by_sae: dict[str, list[tuple[Wish, Hidden, dict[str, Any]]]] = {}
    for task in index["tasks"]:
        wish, hidden, reference = _task(checkout, task)
        source = reference["source"]
        by_sae.setdefault(f"{source['repo']}/{source['checkpoint']}", []).append(
            (wish, hidden, reference)
        )
    for tasks in by_sae.values():
        source = tasks[0][2]["source"]
        folder = str(Path(source["checkpoint"]).parent)
        yield Ground(
            name=f"{source['base_model']} {folder}",
            model=model or index["model"],
            sae=saes / folder if saes else folder,
            release="" if saes else source["repo"],
            wishes=[wish for wish, _, _ in tasks],
            hidden={wish.name: hidden for wish, hidden, _ in tasks},
            chat=True,
            n_new_tokens=max(each["protocol"]["max_new_tokens"] for _, _, each in tasks),
        )


def _task(checkout: Path, task: dict[str, Any]) -> tuple[Wish, Hidden, dict[str, Any]]:
    """The player sees the description and the cues, and no text: it writes its own."""
    path = checkout / task["suite"]
    suite, reference = _read(path), _read(checkout / task["reference"])
    concept = suite
    if "concepts" in suite:
        concept = next(each for each in suite["concepts"] if each["id"] == task["concept_id"])
    sides = {
        label: [case["text"] for case in concept["activation_cases"] if case["label"] == label]
        for label in ("positive", "hard_negative", "neutral")
    }
    examples = Examples(*sides.values())
    evaluation = (
        suite.get("steering_evaluation")
        or (_read(path.parent / suite["steering_prompts"])["prompts"])
    )
    calibration = [each["prompt"] for each in suite["steering_calibration"]]
    name = Path(task["task"]).parent.name
    if not (all(examples) and calibration and evaluation):
        raise ValueError(f"task {name!r} lacks texts or prompts in {task['suite']}")
    cues = [f" {cue}" for cue in concept["steering_target"]["cues"]]
    wish = Wish(name, concept["target"], cues, Examples([], [], []), [])
    hidden = Hidden(
        examples,
        calibration,
        [each["prompt"] for each in evaluation],
        float(reference["protocol"]["alpha"]),
        task["expert_feature_id"],
    )
    return wish, hidden, reference


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
