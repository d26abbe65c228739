"""What the window shows that is no result of a tool: which SAEs there are, lists of their features,
this machine. Nothing here asks another machine."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from saescope import __version__
from saescope.errors import ArgumentError
from saescope_mcp.state import AppState, Placement, Source
from saescope_mcp.state.warm import put_aside
from saescope_mcp.tools.status import cached_saes

if TYPE_CHECKING:
    from saescope.features.index.feature_index import FeatureIndex

MOST_LISTED = 200
"""Features in one part of a list."""
ORDERS = ("feature", "density", "peak")


async def known_saes(state: AppState) -> dict[str, Any]:
    """The SAEs in memory, and those that were loaded before."""
    # before the first wait: a load that ends meanwhile changes what is gone through
    loaded = [
        {
            "handle": entry.handle,
            "model": entry.slot.handle,
            "site": entry.sae.cfg.metadata.hook_name,
            "n_features": entry.sae.cfg.d_sae,
        }
        for entry in state.saes.values()
    ]
    there, sets = {*state.saes, *state.sets}, [*state.sets]
    known = await state.workers.run(state.known.all)
    return {
        "loaded": loaded,
        "known": [handle for handle in known if handle not in there],
        "sets": sets,
    }


async def load_arguments(state: AppState, handle: str) -> dict[str, Any]:
    """What load_sae is to be called with for an SAE that was loaded before; "" is the embedded one.

    Raises:
        ArgumentError: it was not loaded before.
    """
    known = await state.workers.run(state.known.all)
    if handle and handle not in known:
        raise ArgumentError(
            f"{handle!r} was not loaded here before.",
            code="HANDLE_NOT_FOUND",
            field="handle",
            got=handle,
            allowed=", ".join(known) or "none is known yet",
            hint="Load it once from an agent or from the command line: load_sae.",
        )
    source, placement = known.get(handle, (Source(), Placement()))
    return _stated(source) | _stated(placement)


def _stated(part: Source | Placement) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    values = asdict(part)
    usual = {field.name: field.default for field in fields(part)}
    return {name: value for name, value in values.items() if value != usual[name]}


async def machine(state: AppState) -> dict[str, Any]:
    """Version, device, memory, and how many SAEs are on the disk; this imports torch."""
    device = await state.workers.run(_device)
    cached, room = await state.workers.run(partial(cached_saes, state)), state.room(device)
    memory = {"budget": room.budget, "used": room.used, "free": room.free}
    return {
        "version": __version__,
        "device": device,
        "memory": memory,
        "n_cached": len(cached),
        "keeps": state.settings.ledger,
    }


def _device() -> str:
    with put_aside():
        from saescope.models import pick_device

    return str(pick_device("auto"))


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
    return {
        "total": entry.sae.cfg.d_sae,
        "corpus": _corpus(index),
        "features": [asdict(row) for row in rows],
    }


async def densities(state: AppState, handle: str) -> dict[str, Any]:
    """How many features fire how often, from the index; without one there are no bins.

    Raises:
        NotFoundError: the SAE is not loaded.
    """
    index = (await state.require(handle).indexed()).best
    if index is None:
        return {"corpus": None, "bins": [], "n_never": None}
    from saescope.evals.report import density_histogram

    bins = await state.workers.run(partial(density_histogram, index.densities))
    return {
        "corpus": _corpus(index),
        "bins": [asdict(each) for each in bins],
        "n_never": int((index.densities == 0).sum()),
    }


def _corpus(index: "FeatureIndex | None") -> dict[str, Any] | None:
    return index and {"dataset": index.manifest.dataset, "n_tokens": index.manifest.n_tokens}


def _number(asked: Mapping[str, str], name: str, most: int) -> int:
    """Raises: ArgumentError: it is no number from 0 to `most`."""
    given = asked.get(name, "0")
    if given.isascii() and given.isdigit() and len(given) < 11 and int(given) <= most:
        return int(given)
    raise ArgumentError(f"{name} is {given!r}.", field=name, got=given, allowed=f"0..{most}")
