"""The call of each test that a claim lacks: as the tests before it, so far as these can be made
again."""

from collections.abc import Sequence
from typing import Any

from saescope.ledger import KeptEntry
from saescope.ledger.changed import the_edit, up
from saescope.ledger.found import tokens_in
from saescope.ledger.words import is_of_logits
from saescope.records.claims import ClaimVerdict
from saescope_mcp.binding import next_call
from saescope_mcp.schemas.claim import ClaimRequest

MOST_CHARS = 200
"""A longer prompt is not said again."""
OTHERS = ["...", "..."]
"""Prompts or texts that only the reader can find."""
_SEARCHES = ("find_features", "steer_search")
"""Tools whose concepts may be texts of several tokens."""


def further_tests(
    request: ClaimRequest, done: ClaimVerdict, entries: Sequence[KeptEntry]
) -> list[str]:
    """The call of each test that is missing."""
    calls = list[str]()
    for missing in done.missing:
        if missing.what == "contrast":
            asked = {"sae": request.sae, "texts": OTHERS, "against": OTHERS}
            calls.append(next_call("find_features", **asked))
        else:
            fresh = missing.what in ("prompts", "fresh prompts")
            calls.append(_test(request, entries, fresh=fresh))
    return calls


def _test(request: ClaimRequest, entries: Sequence[KeptEntry], *, fresh: bool) -> str:
    """A test of the effect beside controls, on a prompt as before or on fresh ones."""
    tokens, against = (sorted(tokens_in(each)) for each in (request.effect, request.against))
    on = {"sae": request.sae}
    if request.against and len([*tokens, *against]) > 2:
        sign = {"sign": "lower"} if request.direction == "lowers" else {}
        more = {"prompts": OTHERS} if fresh else {}
        return next_call("find_features", **on, causes=tokens, against=against, **sign, **more)
    edit, unit = _as_before(request, entries)
    if not request.against and any(entry.tool in _SEARCHES for entry in entries):
        sign = {"sign": "lower"} if request.direction == "lowers" else {}
        more = {"held_out": OTHERS} if fresh else {}
        mix = [{"feature": request.feature}]
        return next_call("steer_search", **on, features=mix, concept=tokens, **sign, **more)
    where: dict[str, Any] = {"prompts": OTHERS} if fresh else {"prompt": _prompt(entries)}
    where |= {"chat": True} if any(entry.arguments.get("chat") for entry in entries) else {}
    if len(tokens) > 1:
        edit.pop("positions", None)
        return next_call(
            "steer_generate", **on, **where, features=[edit], **unit, concept_tokens=tokens
        )
    what = {"target": request.effect}
    what |= {"against": request.against} if request.against else {}
    is_logit = not request.against and is_of_logits(request.text)
    what |= {"measure": "logit"} if is_logit else {}
    return next_call("intervene", **on, **where, edits=[edit], **unit, **what, n_controls=19)


def _prompt(entries: Sequence[KeptEntry]) -> str:
    for entry in entries:
        given = entry.arguments.get("prompt") or next(iter(entry.arguments.get("prompts", [])), "")
        if given and len(given) < MOST_CHARS:
            return given
    return "..."


def _as_before(
    request: ClaimRequest, entries: Sequence[KeptEntry]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The edit of a result that the claim rests on, and its unit; an ablation where there is none,
    or where one cannot say which way the feature went."""
    for entry in entries:
        edit, strengths = the_edit(entry), entry.arguments.get("strengths") or [1.0]
        times = strengths[len(strengths) // 2]
        if edit is None or edit["feature"] != request.feature or not up(edit, times):
            continue
        unit = entry.arguments.get("unit", "typical")
        kept = {
            name: value
            for name, value in edit.items()
            if value not in ([], "") and not name.startswith("when_")
        }
        kept["strength"] = edit["strength"] * times
        return kept, {} if unit == "typical" else {"unit": unit}
    return {"feature": request.feature, "mode": "ablate"}, {}
