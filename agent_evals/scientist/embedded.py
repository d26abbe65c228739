"""Concepts written for the embedded model and its SAE. Nobody knows which features are right: what
players name is measured, not compared."""

from pathlib import Path
from typing import Any

import yaml

from agent_evals.scientist.wish import Examples, Ground, Hidden, Wish

FILE = Path(__file__).parent / "concepts.yaml"
REFERENCE_NORM = 60.0
"""The norm of the vector that is added at the reference strength: 0.4 of the usual norm of 151 at
this SAE's site, the middle of what the planted worlds need."""


def embedded_ground(names: list[str] | None = None) -> Ground:
    """The embedded model, its SAE and the concepts, all or those named.

    Raises:
        ValueError: there is no such concept.
    """
    from saescope.embedded import EMBEDDED_SAE_DIR, model_dir

    said: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    known = [concept["name"] for concept in said["concepts"]]
    if unknown := sorted(set(names or ()) - set(known)):
        raise ValueError(f"there is no concept {unknown[0]!r}; there are {', '.join(known)}")
    concepts = [each for each in said["concepts"] if not names or each["name"] in names]
    return Ground(
        name="smollm2-135m",
        model=model_dir(),
        sae=EMBEDDED_SAE_DIR,
        wishes=[_wish(said, concept) for concept in concepts],
        hidden={concept["name"]: _hidden(said, concept) for concept in concepts},
        knows=False,
        n_new_tokens=32,
    )


def _half(texts: list[str], second: bool) -> list[str]:
    middle = len(texts) // 2
    return texts[middle:] if second else texts[:middle]


def _examples(said: dict[str, Any], concept: dict[str, Any], *, second: bool) -> Examples:
    lists = (concept["positives"], concept["hard_negatives"], said["neutral"])
    return Examples(*(_half(texts, second) for texts in lists))


def _wish(said: dict[str, Any], concept: dict[str, Any]) -> Wish:
    return Wish(
        concept["name"],
        concept["description"],
        concept["tokens"],
        _examples(said, concept, second=False),
        said["prompts"],
    )


def _hidden(said: dict[str, Any], concept: dict[str, Any]) -> Hidden:
    shown = _examples(said, concept, second=True)
    return Hidden(shown, said["calibration"], said["evaluation"], REFERENCE_NORM)
