"""sae://catalogue: the published SAEs that load by name."""

from functools import partial

from saescope_mcp.binding.document import compact
from saescope_mcp.resources.resource import Resource
from saescope_mcp.state import AppState


async def catalogue(state: AppState) -> str:
    """Every release of published SAEs with its model and number of SAEs; find_saes searches in
    them."""
    return await state.workers.run(_releases)


async def catalogue_release(state: AppState, release: str) -> str:
    """The SAEs of one release: what load_sae needs, the site and, where known, size and L0."""
    return await state.workers.run(partial(_release, release))


def _releases() -> str:
    from saescope.catalogue import releases

    rows = [
        {"release": name, "model": next(iter(saes.values())).model, "n_saes": len(saes)}
        for name, saes in releases().items()
    ]
    return compact({"total": sum(map(len, releases().values())), "releases": rows})


def _release(name: str) -> str:
    from saescope.catalogue import get, releases

    if name not in releases():
        get(name, "")  # raises, with the nearest names
    rows = [
        {
            "sae_id": entry.sae_id,
            "hook_name": entry.hook_name or None,
            "d_sae": entry.d_sae,
            "l0": entry.l0,
        }
        for entry in releases()[name].values()
    ]
    return compact({"release": name, "total": len(rows), "saes": rows})


RESOURCES = [
    Resource(catalogue, "sae://catalogue", "Catalogue of published SAEs"),
    Resource(catalogue_release, "sae://catalogue/{release}", "SAEs of a release"),
]
