"""How a reader of kept results says what it found of one feature."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saescope.ledger.entry import KeptEntry
from saescope.records.claims import FeatureTest

LEAST_PROMPTS = 6
"""Prompts of which all must agree for a sign test to reach p = 0.05."""
NEUTRAL = "the neutral prompts"
"""The prompts that ship with this package, where a call names none."""
_NO_TEXT = "\ufffd"
"""What stands for a token that is no whole character."""
Row = Mapping[str, Any]

_USUAL: Row = {
    "kind": "effect",
    "against": "",
    "measure": "",
    "beyond": None,
    "size": None,
    "unit": "",
    "p": None,
    "p_by": "",
    "n_controls": 0,
    "prompts": (),
    "n_prompts": 0,
    "consistent": False,
    "setting": "",
    "chosen": "",
    "texts": (),
    "other_texts": (),
}


def finding(entry: KeptEntry, feature: int, **said: Any) -> FeatureTest:
    """What a result says of a feature; what is not given has its usual value."""
    sae = said.pop("sae", None) or entry.arguments.get("sae") or next(iter(entry.saes), "")
    said["against"] = said.get("against") or ""
    if not said.get("measure") and said.get("kind", "effect") in ("effect", "estimate"):
        said["measure"] = "difference" if said["against"] else "logprob"
    unit = "nats" if said.get("measure") == "logprob" else ""
    fields: dict[str, Any] = {**_USUAL, "unit": unit, **said}
    return FeatureTest(
        result_id=entry.result_id,
        sae=sae,
        weights=_weights(entry, sae),
        feature=feature,
        **fields,
    )


def _weights(entry: KeptEntry, sae: str) -> str:
    origin = entry.document.get("provenance") or {}
    several = {each["sae"]: each["weights_hash"] for each in origin.get("saes") or []}
    # The hash of a set is none of its members'.
    own = origin.get("weights_hash") if origin.get("sae") in (sae, None) else ""
    return several.get(sae) or own or ""


def going(size: float | None, up: int = 1) -> str:
    """What the feature does, of the change of an edit that makes more (1) or less (-1) of it, or
    nobody knows which (0)."""
    if not size:
        return "none"
    return {1: "raises", -1: "lowers", 0: ""}[up if size > 0 else -up]


def can_be_said(token: str) -> bool:
    """Whether a token's text names it: that of a line's end, or of half a character, does not."""
    return token.isprintable() and _NO_TEXT not in token


def token_of(target: Row) -> str:
    """A token as a claim names it: by its text, else by its id."""
    return target["token"] if can_be_said(target["token"]) else f"#{target['id']}"


def joined(tokens: Iterable[str]) -> str:
    """Tokens whose probabilities are summed, as a claim names them."""
    return "|".join(tokens)


def tokens_in(effect: str) -> frozenset[str]:
    """The tokens that an effect names; a token may have a bar in it itself."""
    parts = effect.split("|")
    return frozenset(parts if all(parts) else [effect])


def same_words(prompt: str) -> str:
    """What prompts have in common that differ in capitals, spaces and marks alone."""
    return " ".join(re.findall(r"\w+", prompt.casefold())) or prompt.strip()


def n_distinct(prompts: Sequence[str]) -> int:
    """Prompts that differ in their words."""
    return len({same_words(each) for each in prompts})


def agree(ends: Sequence[float] | None, n: int) -> bool:
    """Whether an interval over enough prompts does not hold 0."""
    return bool(ends) and n >= LEAST_PROMPTS and ends[0] * ends[1] > 0
