"""Attributions and edits as code."""

from collections.abc import Mapping
from typing import Any

from saescope.ledger import KeptEntry
from saescope.records.attribution import Attribution
from saescope.records.steering import Intervention, Interventions
from saescope.reports.code import call, literal
from saescope.reports.desk import Desk, handles_of
from saescope.reports.replays.replay import Replay, found, options, places_of, stored

_ATTRIBUTE: dict[str, Any] = {
    **dict.fromkeys(("target", "against")),
    **{"position": -1, "measure": "logprob", "method": "gradient", "k": 10, "sign": "any"},
    **{"validate": True, "n_controls": 19, "seed": 0, "include_special": False},
}
_INTERVENE: dict[str, Any] = {
    **dict.fromkeys(("target", "against")),
    **{"unit": "typical", "measure": "logprob", "n_controls": 19, "seed": 0},
}
_EDIT: dict[str, Any] = {"strength": 1.0, "mode": "add", "positions": [], "when_above": 0.0}


def attribute_logit(entry: KeptEntry, desk: Desk) -> Replay:
    """An attribution."""
    asked, handles = entry.arguments, handles_of(entry)
    tokens = desk.tokens(entry, handles, asked["prompt"], chat=asked.get("chat", False))
    given = [desk.model(entry, handles[0]), desk.saes(entry, handles), tokens]
    code = found("ss.attribute", given, options(entry, _ATTRIBUTE))
    return Replay(code, stored(entry, Attribution))


def intervene(entry: KeptEntry, desk: Desk) -> Replay:
    """Edits, on one prompt or on several."""
    asked, handles = entry.arguments, handles_of(entry)
    chat, prompts = asked.get("chat", False), asked.get("prompts")
    tokens = (
        desk.tokens_of(entry, handles, prompts, chat=chat)
        if prompts
        else desk.tokens(entry, handles, asked["prompt"], chat=chat)
    )
    given = [desk.model(entry, handles[0]), desk.saes(entry, handles), tokens]
    given.append(edits(asked["edits"], places_of(entry)))
    named = desk.units(entry, handles) | options(entry, _INTERVENE)
    name, kind = ("ss.intervene_all", Interventions) if prompts else ("ss.intervene", Intervention)
    return Replay(found(name, given, named), stored(entry, kind))


def edits(given: list[dict[str, Any]], places: Mapping[str, int]) -> str:
    """Edits of a call as a list of `ss.FeatureEdit`."""
    written = [_edit(each, places) for each in given]
    flat = f"[{', '.join(written)}]"
    if len(flat) <= 80:
        return flat
    return "[\n" + "".join(f"    {each},\n" for each in written) + "]"


def _edit(each: Mapping[str, Any], places: Mapping[str, int]) -> str:
    named = {
        name: literal(tuple(each[name]) if name == "positions" else each[name])
        for name, usual in _EDIT.items()
        if each.get(name, usual) != usual
    }
    if place := places.get(each.get("sae", ""), 0):
        named["sae"] = literal(place)
    if each.get("when_feature", -1) >= 0:
        named["when_feature"] = literal(each["when_feature"])
        if each.get("when_sae"):
            named["when_sae"] = literal(places[each["when_sae"]])
    return call("ss.FeatureEdit", [literal(each["feature"])], named)
