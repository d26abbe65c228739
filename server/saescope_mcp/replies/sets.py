"""What load_sae says of a set: what it is, what it takes, and how its layers fit."""

from typing import TYPE_CHECKING, Any

from saescope.verdicts import Quality
from saescope_mcp.binding import next_call
from saescope_mcp.schemas.load import CheckRow, LoadSae, LoadSaeReply, Memory
from saescope_mcp.state import LoadedSet
from saescope_mcp.state.memory import Room
from saescope_mcp.state.set_loading import SetNeed

if TYPE_CHECKING:
    from saescope.evals import SetCheck
    from saescope.sets import SAESet


def set_reply(entry: LoadedSet, room: Room, request: LoadSae) -> LoadSaeReply:
    """What is to be said of a set that is loaded."""
    sae_set, check = entry.sae_set, entry.check
    memory, wrong = sae_set.memory, entry.check.verdict.level is Quality.WRONG
    detailed = request.response_format == "detailed"
    handles = [*entry.members]
    more = "" if memory.budget is None else f" At most {_mb(memory.budget)} stay in memory."
    return LoadSaeReply(
        summary=f"Ready: {described(sae_set)}. Weights are read when needed.{more} "
        f"Each layer's SAE has a handle: {handles[0]} to {handles[-1]}. Check: {measured(check)}",
        warnings=entry.warnings,
        next=[
            next_call("unload", handle=entry.handle)
            if wrong
            else next_call("trace_circuit", sae=entry.handle, prompt="..."),
        ],
        evidence="observed",
        state="done",
        sae=entry.handle,
        members=tuple(handles) if detailed else (),
        **_of_set(sae_set),
        model=entry.model.name,
        memory=Memory(
            need=memory.whole + entry.model.weights_bytes,
            least=memory.least + entry.model.weights_bytes,
            free=room.free,
            budget=room.budget,
        ),
        check=_check_row(check, detailed=detailed),
    )


def _check_row(check: "SetCheck", *, detailed: bool) -> CheckRow:
    """Medians over the layers; what is measured of one SAE alone is null."""
    return CheckRow(
        n_tokens=check.n_tokens,
        n_sinks=0,
        l0=check.l0,
        explained_variance=check.explained_variance,
        ce_score=None,
        clean_loss=None,
        ablation_cost=None,
        scale=None,
        peak=None,
        published_l0=None,
        verdict=str(check.verdict),
        layers=check.layers if detailed else (),
    )


def _of_set(sae_set: "SAESet") -> dict[str, Any]:
    """The facts of a set that do not depend on what is loaded; those of its first SAE stand for
    all."""
    cfg = sae_set.members[0].cfg
    return {
        "layers": sae_set.layers,
        "dialect": sae_set.dialect,
        "revision": sae_set.revision or None,
        "architecture": cfg.architecture,
        "hook_name": sae_set.members[0].read_hook,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "k": getattr(cfg, "k", None),
        "weights_bytes": sae_set.memory.whole,
    }


def described(sae_set: "SAESet") -> str:
    """What the set is, in half a sentence."""
    kinds = {
        "transcoders": "transcoders",
        "cross_layer": "layers of a cross-layer transcoder",
        "residual": "SAEs",
    }
    n, cfg = len(sae_set.members), sae_set.members[0].cfg
    widths = {each.cfg.d_sae for each in sae_set.members}
    features = f"{cfg.d_sae:,}" if len(widths) == 1 else f"{min(widths):,} to {max(widths):,}"
    return (
        f"{n} {kinds[sae_set.kind]} ({cfg.architecture}, {features} features each) of layers "
        f"{sae_set.layers}"
    )


def measured(check: "SetCheck") -> str:
    """The median, the worst layer and the verdict."""
    if check.worst is None or check.explained_variance is None:
        return f"{check.verdict}."
    level = check.verdict.level
    judged = level.value if level is Quality.GOOD else str(check.verdict)
    return (
        f"explained variance {check.explained_variance:.2f} in the median of {check.n_layers} "
        f"layers, worst {check.worst.explained_variance:.2f} at {check.worst.hook_name}; {judged}."
    )


def planned_set(
    opened: "SAESet", need: SetNeed, room: Room, model: str, warnings: list[str], call: str
) -> LoadSaeReply:
    """What a load would take, of which nothing but headers was read."""
    whole, least = need.whole + need.model_bytes, need.least + need.model_bytes
    known = need.model.model_bytes is not None
    fits = False if least > room.free else True if known else None
    what = "" if known else " and a model whose size is not known before its download"
    enough = (
        "it does not fit, even a layer at a time"
        if least > room.free
        else f"it is read a layer at a time, for which {_mb(least)} are enough"
    )
    return LoadSaeReply(
        summary=f"Dry run: {described(opened)}, format {opened.dialect}, "
        f"{_mb(opened.memory.on_disk)} on disk. All in memory it would take {_mb(whole)}{what}; "
        f"{_mb(room.free)} of the budget are free"
        f"{': it fits' if known and whole <= room.free else f'; {enough}'}. Nothing was loaded.",
        warnings=[*warnings, *opened.notes],
        next=[call],
        state="planned",
        **_of_set(opened),
        model=model,
        memory=Memory(need=whole, least=least, free=room.free, budget=room.budget),
        fits=fits,
    )


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
