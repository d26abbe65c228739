"""find_saes."""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mcp.types import ToolAnnotations

from saescope_mcp.binding import next_call
from saescope_mcp.groups import Group
from saescope_mcp.replies import Tool
from saescope_mcp.schemas.find import FindSaes, FindSaesReply, ModelHere
from saescope_mcp.state import AppState, Placement, Source, load_call

if TYPE_CHECKING:
    from saescope.catalogue import Page

_FILTERS = ("query", "model", "layer", "site", "architecture")
_PICKLES = (".pt", ".pth")


async def find_saes(state: AppState, request: FindSaes) -> FindSaesReply:
    """Find published SAEs by words, model, layer, site or architecture, when you do not know
    release and sae_id. Searches a catalogue of 13,857 SAEs in 170 releases on this machine, without
    the network. Any other Hugging Face repository loads as well:
    load_sae(release="owner/name", sae_id="folder")."""
    page, without = await state.workers.run(partial(_search, request))
    fit = await state.workers.run(partial(_fit, state, request, page))
    end = request.offset + len(page.saes)
    more = end < page.total
    return FindSaesReply(
        summary=_summary(request, page, without) + (_fits(fit) if fit else ""),
        warnings=_warnings(page, allowed=state.settings.allow_pickle),
        next=_next(request, page, without, end if more else None),
        saes=[*page.saes],
        total=page.total,
        truncated=more,
        next_offset=end if more else None,
        fit=fit,
        nearest=page.nearest,
    )


def _fit(state: AppState, request: FindSaes, page: "Page") -> ModelHere | None:
    """Whether the model can be loaded here, where the SAEs are of one and something is known of
    it."""
    from saescope.catalogue import is_model_here, model_size

    models = {row.model for row in page.saes} if page.total == len(page.saes) else set[str]()
    name = request.model or (models.pop() if len(models) == 1 else "")
    size = model_size(name) if name else None
    if size is None:
        return None
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    sizes, room = {dtype: size.n_bytes(dtype) for dtype in dtypes}, state.room()
    return ModelHere(
        name=size.name,
        n_parameters=size.n_parameters,
        float32_bytes=sizes["float32"],
        bfloat16_bytes=sizes["bfloat16"],
        disk_bytes=size.disk_bytes,
        free_bytes=room.free,
        fits=next((dtype for dtype in dtypes if sizes[dtype] <= room.free), None),
        counted=size.counted,
        here=is_model_here(name),
    )


def _fits(fit: ModelHere) -> str:
    said = "" if fit.counted else "about "
    does = f"fits as {fit.fits}" if fit.fits else "does not fit"
    return (
        f" {fit.name} ({said}{fit.n_parameters / 1e9:.3g} B weights: {fit.float32_bytes / 1e9:.3g} "
        f"GB as float32, {fit.bfloat16_bytes / 1e9:.3g} GB as bfloat16; {fit.free_bytes / 1e9:.3g} "
        f"GB are free for models here) {does}."
    )


def _search(request: FindSaes) -> "tuple[Page, dict[str, int]]":
    """What fits; and if nothing does, how much would without each one of the arguments."""
    from saescope import catalogue

    filters = _filters(request)
    page = catalogue.find_saes(**filters, limit=request.limit, offset=request.offset)
    if page.total or len(filters) < 2:
        return page, {}
    counts = {
        name: catalogue.find_saes(
            **{other: value for other, value in filters.items() if other != name}, limit=1
        ).total
        for name in filters
    }
    return page, {name: total for name, total in counts.items() if total}


def _filters(request: FindSaes) -> dict[str, Any]:
    filters = request.model_dump(include={*_FILTERS}, exclude_defaults=True)
    return {name: filters[name] for name in _FILTERS if name in filters}


def _summary(request: FindSaes, page: "Page", without: dict[str, int]) -> str:
    if page.saes:
        here = sum(row.cached for row in page.saes)
        return (
            f"{page.total:,} published SAEs fit; {len(page.saes)} listed, {here} of them "
            "on this machine."
        )
    if page.total:
        return f"{page.total:,} published SAEs fit, none of them from offset {request.offset} on."
    hints = [f"nearest names: {', '.join(page.nearest)}"] if page.nearest else []
    hints += [f"without {name} {total:,} would" for name, total in without.items()]
    return (
        "No published SAE "
        f"fits{': ' if hints else '.'}{'; '.join(hints)}"
        f"{'.' if hints else ' Use fewer or shorter words.'}"
    )


def _warnings(page: "Page", *, allowed: bool) -> list[str]:
    n_pickles = sum(row.file.endswith(_PICKLES) for row in page.saes)
    if not n_pickles or allowed:
        return []
    return [
        f"{n_pickles} of those listed are .pt files (pickles): they load only where "
        "SAESCOPE_ALLOW_PICKLE=1 is set."
    ]


def _next(
    request: FindSaes, page: "Page", without: dict[str, int], offset: int | None
) -> list[str]:
    filters = _filters(request)
    if page.saes:
        limit = request.model_dump(include={"limit"}, exclude_defaults=True)
        first = load_call(
            Source(release=page.saes[0].release, sae_id=page.saes[0].sae_id), Placement()
        )
        return [
            first,
            *([next_call("find_saes", **filters, **limit, offset=offset)] if offset else []),
        ]
    if page.total:
        return [next_call("find_saes", **filters)]
    if page.nearest:
        from saescope.catalogue import releases

        return [
            next_call(
                "find_saes",
                **{"query" if page.nearest[0] in releases() else "model": page.nearest[0]},
            )
        ]
    most = max(without, key=lambda name: without[name], default=None)
    return [
        next_call(
            "find_saes",
            **{name: value for name, value in filters.items() if name != most} if most else {},
        )
    ]


TOOLS = [
    Tool(
        find_saes,
        FindSaes,
        ToolAnnotations(
            title="Find published SAEs",
            read_only_hint=True,
            destructive_hint=False,
            open_world_hint=False,
        ),
        group=Group.BASE,
    )
]
