"""Steered texts, searches for a strength and patches between prompts as code."""

from typing import Any

from saescope.ledger import KeptEntry
from saescope.records.pairs import PairComparison
from saescope.records.search_strength import StrengthSearch
from saescope.records.steering import Steering, Sweep
from saescope.reports.code import literal
from saescope.reports.desk import Desk, handles_of
from saescope.reports.picking import picked
from saescope.reports.replays.explaining import edits
from saescope.reports.replays.replay import Replay, found, options, places_of, stored

_STEER: dict[str, Any] = {
    **{"unit": "typical", "max_new_tokens": 48, "n_samples": 1, "temperature": 0, "seed": 0},
}
_SEARCH: dict[str, Any] = {
    **{"instruction": "", "sign": "raise", "chat": False, "max_kl": 0.5, "max_perplexity": 4.0},
    **{"unit": "typical", "max_new_tokens": 20, "seed": 0},
}
_PAIR: dict[str, Any] = {
    **dict.fromkeys(("target", "against")),
    **{"k": 10, "n_controls": 19, "seed": 0, "include_special": False},
}
MOST_TEXT = 300
"""Characters from which on a document has only the beginning of a text."""


def steer_generate(entry: KeptEntry, desk: Desk) -> Replay:
    """Texts of one prompt beside controls, or a table of strengths and prompts."""
    asked, handles = entry.arguments, handles_of(entry)
    model, changed = desk.model(entry, handles[0]), asked["features"]
    saes = [model, desk.saes(entry, handles)]
    chat = asked.get("chat", False)
    named = desk.units(entry, handles) | options(entry, _STEER)
    if concept := asked.get("concept_tokens"):
        named["concept_tokens"] = (
            f"[{model}.single_token(text) for text in {desk.list_of(concept)}]"
        )
    written = edits(changed, places_of(entry))
    if not (asked.get("strengths") or asked.get("prompts") or not changed):
        prompt = desk.tokens(entry, handles, asked["prompt"], chat=chat)
        named |= options(entry, {"n_controls": 2})
        code = found("ss.steer", [*saes, prompt, written], named)
        several = len(handles) > 1
        kept = stored(entry, Steering, without={"label"} if several else ())
        return Replay(code, kept)
    prompts = asked.get("prompts") or [asked["prompt"]]
    named["strengths"] = literal(asked.get("strengths") or [1.0])
    texts = desk.tokens_of(entry, handles, prompts, chat=chat)
    document = entry.document | {"rows": entry.document["table"]}
    kept = picked(document, Sweep, places=places_of(entry))
    return Replay(found("ss.sweep", [*saes, texts, written], named), kept)


def steer_search(entry: KeptEntry, desk: Desk) -> Replay:
    """A search for a strength."""
    asked, handles = entry.arguments, handles_of(entry)
    code_given = [desk.model(entry, handles[0]), desk.saes(entry, handles)]
    code_given.append(edits(asked["features"], places_of(entry)))
    named = {"concept": desk.list_of(asked["concept"])}
    for name in ("prompts", "held_out", "texts", "against"):
        if asked.get(name):
            named[name] = desk.list_of(asked[name])
    named |= options(entry, _SEARCH) | desk.units(entry, handles)
    cut = {name for name, text in entry.document.items() if _is_cut(text)}
    return Replay(
        found("ss.steer_search", code_given, named), stored(entry, StrengthSearch, without=cut)
    )


def _is_cut(text: object) -> bool:
    return isinstance(text, str) and len(text) >= MOST_TEXT and text.endswith("\u2026")


def compare_prompts(entry: KeptEntry, desk: Desk) -> Replay:
    """Features patched from one prompt into another."""
    asked, handles = entry.arguments, handles_of(entry)
    chat = asked.get("chat", False)
    prompts = [desk.tokens(entry, handles, asked[name], chat=chat) for name in ("a", "b")]
    code_given = [desk.model(entry, handles[0]), desk.saes(entry, handles), *prompts]
    return Replay(
        found("ss.compare_prompts", code_given, options(entry, _PAIR)),
        stored(entry, PairComparison),
    )
