"""An SAE in the model: what it reads and writes there, with its error kept, so that without an edit
nothing changes."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import HookError, MismatchError, NumericError
from saescope.finite import require_finite
from saescope.hooks import Edit, edit_activations, hook_shape, record_texts
from saescope.models import LanguageModel, canonical_name, has_fingerprint
from saescope.ops import SparseActs, from_dense
from saescope.origin import require_settled
from saescope.progress import NOBODY, Advance
from saescope.saes import SAE, SAEConfig, SAEMetadata
from saescope.sinks import find_sinks

FeatureEditFn = Callable[[Tensor], Tensor]
"""Takes dense feature activations [n_pos, d_sae] and returns the edited ones."""
StackEdit = Callable[[int, Tensor, Tensor], Tensor]
"""Takes an SAE's place among several, what it reads and what stands where it writes; returns what
stands there instead."""


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """What an SAE sees and makes of a batch; positions in reading order."""

    x: Float[Tensor, "n_pos d_in"]
    """Its input, prepared as it was in training."""
    target: Float[Tensor, "n_pos d_out"]
    """What it should reconstruct: `x`, or for a transcoder the activation at the site that it
    writes."""
    acts: SparseActs
    sae_out: Float[Tensor, "n_pos d_out"]
    written: Float[Tensor, "n_pos d_out"]
    """The activation at the site that the SAE writes, as the model has it."""
    sinks: Bool[Tensor, " n_pos"] | None = None
    """Positions whose norm is out of proportion; None inside a forward pass, where nobody asks."""

    @property
    def error(self) -> Float[Tensor, "n_pos d_out"]:
        return self.target - self.sae_out


def read_hook(sae: SAE) -> str:
    """The hook that the SAE reads."""
    return sae.cfg.metadata.hook_name


def write_hook(sae: SAE) -> str:
    """The hook that the SAE reconstructs: the same one, except for a transcoder."""
    return sae.cfg.metadata.hook_name_out if sae.cfg.transcoder else sae.cfg.metadata.hook_name


def site_hooks(sae: SAE) -> list[str]:
    """The hooks at which the SAE reads and writes, each once."""
    return list(dict.fromkeys([read_hook(sae), write_hook(sae)]))


def check_fits(
    model: LanguageModel, sae: SAE, *, allow_mismatch: bool = False, measured: bool = False
) -> list[str]:
    """Raise unless the SAE can be used on this model; returns what could not be verified, as
    warnings. With `measured` the caller measures how well the SAE fits: whether a model of the
    right name is the right one is left to its verdict.

    Raises:
        HookError: the SAE names no hook, or the model has no such hook, or none that has the tensor
            of the SAE's module.
        MismatchError: another width, or the SAE was trained on another model.
    """
    return check_cfg_fits(model, sae.cfg, allow_mismatch=allow_mismatch, measured=measured)


def check_cfg_fits(
    model: LanguageModel, cfg: SAEConfig, *, allow_mismatch: bool = False, measured: bool = False
) -> list[str]:
    """Checks what `check_fits` does, before the weights are there."""
    meta = cfg.metadata
    require_settled(model, meta)
    written = meta.hook_name_out if cfg.transcoder else meta.hook_name
    for hook_name, width in ((meta.hook_name, cfg.d_in), (written, cfg.d_out)):
        if not hook_name:
            raise HookError(
                "The SAE does not say which hook it belongs to.",
                code="HOOK_UNKNOWN",
                field="hook_name",
                hint='Name it: ss.load_sae(..., known={"hook_name": "blocks.8.hook_resid_pre"}).',
                facts={"example": "blocks.8.hook_resid_pre"},
            )
        there = hook_shape(model, hook_name)
        if prod(there) != width:
            raise MismatchError(
                f"The SAE has width {width} at {hook_name}, {model.name} has {prod(there)} there.",
                code="DIM_MISMATCH",
                field="model",
                got=prod(there),
                allowed=width,
                hint="Load it with its own "
                f"model{f', {meta.model_name}' if meta.model_name else ''}.",
            )
    unsure = _check_model(model, meta, allow_mismatch)
    settled = measured and bool(meta.model_name) and _is_namesake(model, meta)
    return [*([] if settled else unsure), *_other_positions(model, meta)]


def _is_of(model: LanguageModel, fingerprint: str) -> bool:
    """Whether an SAE that was trained on a model of this fingerprint was trained on this one."""
    return bool(fingerprint) and has_fingerprint(model, fingerprint) is True


def _check_model(model: LanguageModel, meta: SAEMetadata, allow_mismatch: bool) -> list[str]:
    named = canonical_name(meta.model_name) if meta.model_name else ""
    if named and (named in model.identities or _is_of(model, meta.model_fingerprint)):
        return []
    if named and model.identities and not allow_mismatch:
        raise MismatchError(
            f"The SAE was trained on {meta.model_name}, the model is {model.name}.",
            field="model",
            got=model.name,
            allowed=meta.model_name,
            hint=f'Use it with ss.load_model("{meta.model_name}"), or pass '
            "allow_mismatch=True to use it on a relative on purpose.",
            facts={"model": meta.model_name},
        )
    trained = (
        f"was trained on {meta.model_name}"
        if named
        else "does not say which model it was trained on"
    )
    this = "this one" if _is_namesake(model, meta) else model.name
    return [f"The SAE {trained}; whether {this} is that model, only the measured check tells."]


def _is_namesake(model: LanguageModel, meta: SAEMetadata) -> bool:
    return canonical_name(meta.model_name or "") == canonical_name(model.name)


def _other_positions(model: LanguageModel, meta: SAEMetadata) -> list[str]:
    """A warning where the SAE was trained on some positions of a context alone; position 0 is left
    out here as well."""
    n_pos = meta.context_size or model.n_ctx
    trained = range(n_pos)[meta.seqpos_slice]
    if len(trained) >= n_pos - 1 and n_pos - 1 in trained:
        return []
    which = f"positions {trained[0]} to {trained[-1]}" if trained else "no position"
    step = f" in steps of {trained.step}" if abs(trained.step) != 1 else ""
    return [
        f"The SAE was trained on {which}{step} of contexts of {n_pos} tokens alone "
        "(seqpos_slice); all positions are read here, and it may "
        "be worse at the others."
    ]


def prepare_input(
    model: LanguageModel | None, sae: SAE, activation: Tensor
) -> Float[Tensor, "n_pos d_in"]:
    """The activation at its hook as the SAE knows it: heads flattened; without the mean or the
    value bias that TransformerLens took out. Without a model nothing is taken out."""
    x = sae.flatten(activation)
    if model is None:
        return x
    if sae.cfg.metadata.fold_value_biases:
        x = x - model.value_bias(read_hook(sae)).to(x)
    return x - x.mean(-1, keepdim=True) if is_centred(model, sae) else x


def is_centred(model: LanguageModel, sae: SAE) -> bool:
    """Whether the SAE reads activations without their mean."""
    return sae.cfg.metadata.center_writing_weights and model.readout.centred


def read_site(model: LanguageModel, sae: SAE, ids: Int[Tensor, "batch n_pos"]) -> SiteRecord:
    """Run the model up to the SAE's site and encode what arrives there."""
    return read_sites(model, [sae], ids)[0]


def read_sites(
    model: LanguageModel,
    saes: Sequence[SAE],
    ids: Int[Tensor, "batch n_pos"],
    *,
    advance: Advance = NOBODY,
) -> list[SiteRecord]:
    """Run the model once, up to the last of the SAEs' sites, and encode what arrives at each; a
    long text in chunks, of whose positions `advance` hears."""
    # One reading for all; a forward pass ends at the last hook that is asked for.
    hook_names = [name for sae in saes for name in site_hooks(sae)]
    recorded = record_texts(model, ids, hook_names, advance=advance)
    records: list[SiteRecord] = []
    for sae in saes:
        here = {name: recorded[name] for name in site_hooks(sae)}
        record = site_record(model, sae, here[read_hook(sae)], here[write_hook(sae)])
        records.append(replace(record, sinks=find_sinks(model, here).flatten()))
    return records


def encode_site(
    model: LanguageModel | None, sae: SAE, read: Tensor
) -> tuple[Float[Tensor, "*pos d_in"], SparseActs]:
    """What the SAE takes of a batch's activations at its hook, and the features there; whatever
    reads a model encodes here.

    Raises:
        NumericError: the activations are NaN or infinite.
    """
    x = prepare_input(model, sae, read.to(sae.device))
    require_finite(x, lambda: _not_finite(sae))
    # [batch, n_pos, ...] was flattened to [batch * n_pos, d_in]: an SAE that looks back needs the
    # rows apart.
    given = x.reshape(*read.shape[:2], sae.cfg.d_in) if sae.sequential else x
    return given, sae.encode_sparse(given)


def _not_finite(sae: SAE) -> NumericError:
    return NumericError(
        f"The activations at {read_hook(sae)} are not finite.",
        hint='Load the model with dtype="float32".',
    )


def site_record(model: LanguageModel, sae: SAE, read: Tensor, written: Tensor) -> SiteRecord:
    """Encode and reconstruct recorded activations."""
    given, acts = encode_site(model, sae, read)
    x = given.reshape(-1, sae.cfg.d_in)
    sae_out = sae.skip_path(given, sae.decode(acts, like=given)).reshape(-1, sae.cfg.d_out)
    flat = written.reshape(-1, sae.cfg.d_out)
    return SiteRecord(x, flat.to(sae.dtype) if sae.cfg.transcoder else x, acts, sae_out, flat)


def site_edits(sae: SAE, edit: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Edit]:
    """Hooks that put `edit(read, written)` where the SAE writes; both are raw activations `[batch,
    n_pos, ...]`."""
    if not sae.cfg.transcoder:
        return {write_hook(sae): lambda x: edit(x, x)}
    captured: list[Tensor] = []

    def capture(x: Tensor) -> Tensor:
        captured[:] = [x.clone()]  # some families write into it later on
        return x

    def write(written: Tensor) -> Tensor:
        if not captured:
            raise HookError(
                f"{write_hook(sae)!r} ran before {read_hook(sae)!r}: the transcoder has no input.",
                code="HOOK_ORDER",
            )
        return edit(captured.pop(), written)

    return {read_hook(sae): capture, write_hook(sae): write}


def chained_edits(
    saes: Sequence[SAE], edit: StackEdit, first: Mapping[str, Edit] | None = None
) -> dict[str, Edit]:
    """Hooks that put `edit(i, read, written)` where SAE `i` writes; what one SAE writes is what
    others read there. At one place the hooks of `first` come before."""
    hooks: dict[str, Edit] = dict(first or {})
    # Hooks at one place run in this order: what reads there comes after what writes there.
    in_turn = sorted(
        enumerate(saes),
        key=lambda pair: (pair[1].cfg.transcoder, write_hook(pair[1]).endswith(".hook_resid_mid")),
    )
    for i, sae in in_turn:
        for hook_name, hook in site_edits(sae, partial(edit, i)).items():
            hooks[hook_name] = _chain(hooks[hook_name], hook) if hook_name in hooks else hook
    return hooks


def add_at_site(written: Tensor, change: Float[Tensor, "*n_pos d_out"]) -> Tensor:
    """`written + change`, computed in float32 or better whatever the dtypes of model and SAE."""
    wide = torch.promote_types(torch.promote_types(written.dtype, change.dtype), torch.float32)
    return (written.to(wide) + change.reshape(written.shape).to(wide)).to(written.dtype)


@contextmanager
def splice(
    model: LanguageModel,
    saes: Sequence[SAE],
    *,
    error_term: bool = False,
    edits: Mapping[str, FeatureEditFn] | None = None,
    positions: Bool[Tensor, "batch n_pos"] | None = None,
    cache: dict[str, Tensor] | None = None,
) -> Generator[None]:
    """While the block runs, each SAE's reconstruction takes the place of the activation (at
    `positions`, if given).

    `edits` maps an SAE's write hook to a function of its dense feature activations. With
    `error_term` the site changes by `decode(f') - decode(f)` alone, so that without an edit the
    logits are bit-equal. Hooks of your own stay as they are.

    Raises:
        MismatchError: two SAEs write the same site, or one does not fit the model.
        HookError: an edit names a site of no SAE, or a hook never fired.
    """
    edits = edits or {}
    require_own_sites(saes)
    _check_edits(saes, edits)
    for sae in saes:
        check_fits(model, sae, allow_mismatch=True)
    replacements = [
        _spliced(model, sae, error_term, edits.get(write_hook(sae)), positions, cache)
        for sae in saes
    ]
    hooks = chained_edits(saes, lambda i, read, written: replacements[i](read, written))
    with edit_activations(model, hooks):
        yield


def run_with_saes(
    model: LanguageModel,
    ids: Int[Tensor, "*batch n_pos"],
    saes: Sequence[SAE],
    *,
    error_term: bool = False,
    edits: Mapping[str, FeatureEditFn] | None = None,
    hooks: Mapping[str, Edit] | None = None,
) -> Float[Tensor, "batch n_pos d_vocab"]:
    """Logits with the SAEs in the model; `hooks` are your own edits, applied before an SAE's at the
    same site."""
    with (
        edit_activations(model, hooks or {}),
        splice(model, saes, error_term=error_term, edits=edits),
    ):
        return model.forward(model.batch(ids))[0]


def run_with_cache_with_saes(
    model: LanguageModel,
    ids: Int[Tensor, "*batch n_pos"],
    saes: Sequence[SAE],
    *,
    error_term: bool = False,
    edits: Mapping[str, FeatureEditFn] | None = None,
    hooks: Mapping[str, Edit] | None = None,
) -> tuple[Float[Tensor, "batch n_pos d_vocab"], dict[str, Tensor]]:
    """Logits, and for each SAE `<write
    hook>.hook_sae_{input,acts_pre,acts_post,recons,error,output}` by position."""
    cache: dict[str, Tensor] = {}
    with (
        edit_activations(model, hooks or {}),
        splice(model, saes, error_term=error_term, edits=edits, cache=cache),
    ):
        logits, _ = model.forward(model.batch(ids))
    return logits, cache


def record(model: LanguageModel, sae: SAE, text: str) -> SiteRecord:
    """What the SAE sees in one text and makes of it; BOS as the SAE was trained."""
    check_fits(model, sae)
    return read_site(
        model, sae, model.batch(model.tokenize(text, prepend_bos=sae.cfg.metadata.prepend_bos).ids)
    )


def _spliced(
    model: LanguageModel,
    sae: SAE,
    error_term: bool,
    edit: FeatureEditFn | None,
    positions: Bool[Tensor, "batch n_pos"] | None,
    cache: dict[str, Tensor] | None,
) -> Callable[[Tensor, Tensor], Tensor]:
    def replace(read: Tensor, written: Tensor) -> Tensor:
        site = site_record(model, sae, read, written)
        acts, change = site.acts, site.sae_out.new_zeros(site.sae_out.shape)
        if edit is not None:
            # f' - f as sparse entries: what the edit leaves alone costs nothing, and no edit adds
            # exactly nothing.
            before = site.acts.to_dense()
            edited = edit(before.clone())
            acts, change = (
                from_dense(edited),
                sae.decode_change(from_dense(edited - before), like=site.x),
            )
        if not error_term:
            # sae_out takes the place of the target: target + change = decode(f'), since target -
            # error = decode(f).
            change = change - site.error
        if positions is not None:
            change = change * positions.reshape(-1, 1).to(change)
        out = add_at_site(written, change)
        if cache is not None:
            _store(cache, sae, site, (acts, out))
        return out

    return replace


def _store(
    cache: dict[str, Tensor], sae: SAE, site: SiteRecord, after: tuple[SparseActs, Tensor]
) -> None:
    (acts, out), name = after, write_hook(sae)
    batch = out.shape[:2]
    values = {
        "input": site.x,
        "acts_pre": sae.hidden_pre(site.x.reshape(*batch, -1)),
        "acts_post": acts.to_dense(),
        "recons": site.sae_out,
        "error": site.error,
    }
    cache |= {f"{name}.hook_sae_{key}": value.reshape(*batch, -1) for key, value in values.items()}
    cache[f"{name}.hook_sae_output"] = out


def require_own_sites(saes: Sequence[SAE]) -> None:
    """Raise MismatchError where two SAEs write the same site."""
    sites = [write_hook(sae) for sae in saes]
    twice = sorted({site for site in sites if sites.count(site) > 1})
    if twice:
        raise MismatchError(
            f"Two SAEs write {twice[0]}.",
            code="TWO_SAES_ON_SITE",
            got=twice[0],
            hint="Run them one after the other.",
        )


def _check_edits(saes: Sequence[SAE], edits: Mapping[str, FeatureEditFn]) -> None:
    sites = [write_hook(sae) for sae in saes]
    unknown = sorted(edits.keys() - set(sites))
    if unknown:
        raise HookError(
            f"An edit names {unknown[0]!r}, where no SAE writes.", got=unknown[0], allowed=sites
        )


def _chain(first: Edit, second: Edit) -> Edit:
    return lambda x: second(first(x))
