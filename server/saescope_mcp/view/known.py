"""What the window shows that is no result of a tool: which SAEs there are, and lists of their
features."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from saescope.errors import ArgumentError
from saescope_mcp.state import AppState, Placement, Source

MOST_LISTED = 200
"""Features in one part of a list."""
ORDERS = ("feature", "density", "peak")


def known_saes(state: AppState) -> dict[str, Any]:
    """The SAEs in memory; and those that were loaded before, with the arguments that load them."""
    loaded = [
        {
            "handle": entry.handle,
            "model": entry.slot.handle,
            "site": entry.sae.cfg.metadata.hook_name,
            "n_features": entry.sae.cfg.d_sae,
        }
        for entry in state.saes.values()
    ]
    there = {*state.saes, *state.sets}
    known = [
        {"handle": handle, "arguments": _stated(source) | _stated(placement)}
        for handle, (source, placement) in state.known.all().items()
        if handle not in there
    ]
    return {"loaded": loaded, "known": known, "sets": [*state.sets]}


def _stated(part: Source | Placement) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    values = asdict(part)
    usual = {field.name: field.default for field in fields(part)}
    return {name: value for name, value in values.items() if value != usual[name]}


async def listed_features(state: AppState, asked: Mapping[str, str]) -> dict[str, Any]:
    """A part of the list of an SAE's features, by number, density or peak.

    Raises:
        NotFoundError: the SAE is not loaded.
        ArgumentError: a value that no page of ours sends.
    """
    entry = state.require(asked.get("sae", ""))
    by, limit = asked.get("by", "feature"), _number(asked, "limit", MOST_LISTED)
    offset = _number(asked, "offset", 2**31)
    if by not in ORDERS:
        raise ArgumentError(
            f"There is no order {by!r}.", field="by", got=by, allowed=", ".join(ORDERS)
        )
    index = (await entry.indexed()).best
    from saescope.features import list_features

    rows = await state.workers.run(
        partial(list_features, entry.sae, index, by=by, limit=limit, offset=offset)
    )
    corpus = index and {"dataset": index.manifest.dataset, "n_tokens": index.manifest.n_tokens}
    return {
        "total": entry.sae.cfg.d_sae,
        "corpus": corpus,
        "features": [asdict(row) for row in rows],
    }


def _number(asked: Mapping[str, str], name: str, most: int) -> int:
    """Raises: ArgumentError: it is no number from 0 to `most`."""
    given = asked.get(name, "0")
    if given.isascii() and given.isdigit() and len(given) < 11 and int(given) <= most:
        return int(given)
    raise ArgumentError(f"{name} is {given!r}.", field=name, got=given, allowed=f"0..{most}")
