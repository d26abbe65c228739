"""Searches for features as code."""

from typing import Any

from saescope.ledger import KeptEntry
from saescope.records.features import Contrast, FoundFeature, Writer
from saescope.records.pairs import FeatureMatches
from saescope.records.search import CausalSets, Cause, SelectedFeature, SelectionFacts
from saescope.reports.code import literal
from saescope.reports.desk import Desk, handles_of
from saescope.reports.picking import picked
from saescope.reports.replays.replay import (
    CannotReplayError,
    Replay,
    found,
    given,
    options,
    texts_in,
)

MOST_CONTRASTED, MOST_CHOSEN = 40, 8
"""The most rows of a contrast's side, and of a choice, that the tool asks for."""


def find_features(entry: KeptEntry, desk: Desk) -> Replay:
    """A search, by what was given."""
    asked = entry.arguments
    if asked.get("group_column"):
        raise CannotReplayError("the documents of its texts are those of a column of their file")
    if asked.get("query"):
        raise CannotReplayError("it looks labels up, which are those of this machine")
    if asked.get("match"):
        return _matched(entry, desk)
    if asked.get("causes") or asked.get("metric") == "repetition":
        return _chosen(entry, desk) if _has(entry, "texts") else _causes(entry, desk)
    if _has(entry, "against") or asked.get("against_sae"):
        return _contrast(entry, desk)
    return _by_tokens(entry, desk) if asked.get("tokens") else _by_texts(entry, desk)


def _by_texts(entry: KeptEntry, desk: Desk) -> Replay:
    named = {"index": desk.index(entry, _handle(entry))} | _page(entry)
    code_given = [*_both(entry, desk), _texts(entry, desk, "texts")]
    return Replay(found("ss.find_by_texts", code_given, named), _kept(entry, FoundFeature))


def _by_tokens(entry: KeptEntry, desk: Desk) -> Replay:
    named = desk.units(entry, [_handle(entry)]) | _page(entry)
    code_given = [*_both(entry, desk), literal(entry.arguments["tokens"])]
    return Replay(found("ss.find_by_tokens", code_given, named), _kept(entry, Writer))


def _contrast(entry: KeptEntry, desk: Desk) -> Replay:
    asked = entry.arguments
    named = {"against": _texts(entry, desk, "against")} if _has(entry, "against") else {}
    named |= given(entry, "documents")
    named["k"] = literal(min(asked["k"], MOST_CONTRASTED))
    named |= options(entry, {"unconfirmed": False})
    function = "ss.contrast_texts"
    if other := asked.get("against_sae"):
        function, named["other"] = "ss.contrast_models", desk.other_model(entry, other)
    code_given = [*_both(entry, desk), _texts(entry, desk, "texts")]
    document = entry.document | (entry.document.get("contrast") or {})
    kept = picked(document, Contrast, places={}, without={"total", "score_is", "verdict"})
    return Replay(found(function, code_given, named), kept)


def _causes(entry: KeptEntry, desk: Desk) -> Replay:
    asked = entry.arguments
    named = {"over": literal(asked["against"])} if asked.get("against") else {}
    if asked.get("prompts"):
        named["prompts"] = _texts(entry, desk, "prompts")
    named |= options(entry, {"metric": "logprob", "sign": "raise"}) | _page(entry)
    named |= desk.units(entry, [_handle(entry)])
    code_given = [*_both(entry, desk), literal(asked.get("causes", []))]
    kept = _kept(entry, Cause) | _search(entry)
    return Replay(found("ss.find_causes", code_given, named), kept)


def _chosen(entry: KeptEntry, desk: Desk) -> Replay:
    asked = entry.arguments
    named = {"against": _texts(entry, desk, "against"), "causes": literal(asked["causes"])}
    if asked.get("prompts"):
        named["prompts"] = _texts(entry, desk, "prompts")
    named["k"] = literal(min(asked["k"], MOST_CHOSEN))
    named |= desk.units(entry, [_handle(entry)])
    choice = picked(entry.document["choice"], SelectionFacts, places={})
    kept = _kept(entry, SelectedFeature) | _search(entry) | {"choice": choice}
    code_given = [*_both(entry, desk), _texts(entry, desk, "texts")]
    return Replay(found("ss.select_features", code_given, named), kept)


def _matched(entry: KeptEntry, desk: Desk) -> Replay:
    other = desk.sae(entry, entry.arguments["match"])
    texts = _texts(entry, desk, "texts") if _has(entry, "texts") else "[]"
    code_given = [*_both(entry, desk), other, texts]
    named = given(entry, "features") | _page(entry)
    document = entry.document | (entry.document.get("match") or {})
    return Replay(
        found("ss.match_features", code_given, named), picked(document, FeatureMatches, places={})
    )


def _handle(entry: KeptEntry) -> str:
    return handles_of(entry)[0]


def _both(entry: KeptEntry, desk: Desk) -> list[str]:
    handle = _handle(entry)
    return [desk.model(entry, handle), desk.sae(entry, handle)]


def _has(entry: KeptEntry, name: str) -> bool:
    """Whether a call has such texts, in it or in a file."""
    named = (name, f"{name}_file", "label_column" if name == "against" else "")
    return any(entry.arguments.get(each) for each in named)


def _texts(entry: KeptEntry, desk: Desk, name: str) -> str:
    return desk.read(entry, [_handle(entry)], texts_in(entry, desk, name))


def _page(entry: KeptEntry) -> dict[str, str]:
    return options(entry, {"k": 10, "offset": 0})


def _kept(entry: KeptEntry, row: type) -> dict[str, Any]:
    rows = [picked(each, row, places={}) for each in entry.document["features"]]
    return {"features": rows, "total": entry.document["total"]}


def _search(entry: KeptEntry) -> dict[str, Any]:
    return {"search": picked(entry.document["search"], CausalSets, places={})}
