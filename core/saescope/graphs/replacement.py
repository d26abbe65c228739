"""The local replacement model of one prompt: the forward pass as a linear map from what features,
errors and tokens write to what features and logits read.

Transcoders take the place of the MLPs; attention patterns and the scales of norms stay as they were
in the clean run (Ameisen et al. 2025, "Circuit Tracing"). SAEs that read where they write cut the
stream at their sites, and what lies between two of them is linearised at the clean run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import ConfigError, ModelError
from saescope.graphs.members import GraphMember, GraphMembers
from saescope.hooks import record_activations
from saescope.models import LanguageModel, StopForward
from saescope.names import same_site, split_hook
from saescope.ops import SparseActs
from saescope.precision import wide

EMBED, FINAL = "hook_embed", "unembed.hook_in"
_PROBE = 16
"""Tokens on which it is tried whether a model can be held."""


class Site(NamedTuple):
    """A hook where members write. An error node stands there at each position."""

    hook_name: str
    layer: int
    cuts: bool
    """SAEs that read where they write take the place of what is there, so that the stream ends
    here; what a transcoder writes is added to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clean:
    """The clean run of a prompt, in what a graph needs of it."""

    model: LanguageModel
    members: Sequence[GraphMember]
    sites: Sequence[Site]
    """In reading order."""
    writes: Sequence[Mapping[int, int]]
    """For each member: index of a site that it writes -> the member whose site that is."""
    ids: Int[Tensor, "1 n_pos"]
    n_left_out: int
    """Positions from 0 on without features and errors: what happens there is constant."""
    constants: Mapping[str, Tensor]
    """Attention patterns and scales of norms, by hook; empty where nothing is frozen."""
    there: Mapping[str, Tensor]
    """Activations where members read and write, at the embedding and before the unembedding."""
    acts: Sequence[SparseActs]
    errors: Sequence[Float[Tensor, "n_pos d_out"]]
    """What no feature reconstructs, by site."""

    @property
    def n_pos(self) -> int:
        return self.ids.shape[1]

    @property
    def reads(self) -> list[str]:
        """The hooks that members read, each once."""
        return list(dict.fromkeys(member.read_hook for member in self.members))

    @property
    def patterns(self) -> dict[str, Tensor]:
        """What holds attention as it was, by hook: patterns, and what makes them in families where
        they can be seen but not held."""
        return {n: x for n, x in self.constants.items() if not n.endswith(".hook_scale")}

    def x(self, i: int, activation: Tensor) -> Float[Tensor, "n d_in"]:
        """An activation at member `i`'s hook, positions in rows, heads side by side."""
        return activation.reshape(-1, self.members[i].cfg.d_in)


def read_clean(
    model: LanguageModel, of: GraphMembers, ids: Int[Tensor, "1 n_pos"], n_left_out: int
) -> Clean:
    """Run the model once, and encode what every member reads."""
    sites, writes = _sites(model, of)
    frozen = [] if of.kind == "residual" else model.frozen_hooks
    hooks = [*(m.read_hook for m in of.members), *(s.hook_name for s in sites), EMBED, FINAL]
    there = record_activations(model, ids, [*hooks, *frozen])
    xs = {i: there[m.read_hook].reshape(-1, m.cfg.d_in) for i, m in enumerate(of.members)}
    acts = [each.select(each.positions >= n_left_out) for each in of.encode(xs)]
    errors = [there[site.hook_name].reshape(ids.shape[1], -1).clone() for site in sites]
    for i, member in enumerate(of.members):
        for at, to in writes[i].items():
            errors[at] = errors[at] - decoded(member, acts[i], to)
            if to == i:
                errors[at] = errors[at] - member.bias(to) - _skipped(member, xs[i])
    for error in errors:
        error[:n_left_out] = 0
    return Clean(
        model=model,
        members=of.members,
        sites=sites,
        writes=writes,
        ids=ids,
        n_left_out=n_left_out,
        constants={name: there.pop(name) for name in frozen},
        there=there,
        acts=acts,
        errors=errors,
    )


def _sites(model: LanguageModel, of: GraphMembers) -> tuple[list[Site], list[dict[int, int]]]:
    """Every hook where something is written, in reading order, and who writes there. An MLP that no
    transcoder replaces is all error."""
    names = [member.write_hooks[i] for i, member in enumerate(of.members)]
    if of.kind == "residual":
        _require_cuts(names)
    else:
        names = [same_site(names[0], layer) for layer in range(model.n_layers)]
    sites = [Site(name, split_hook(name)[0] or 0, of.kind == "residual") for name in names]
    writes = [
        {names.index(hook_name): to for to, hook_name in member.write_hooks.items()}
        for member in of.members
    ]
    return sites, writes


def _require_cuts(hook_names: Sequence[str]) -> None:
    """Raise where an edit does not take the place of the whole stream.

    Raises:
        ConfigError: GRAPH_UNSUPPORTED_SAE: the middle of a block goes on beside what stands there.
    """
    middle = next((name for name in hook_names if name.endswith(".hook_resid_mid")), None)
    if middle:
        raise ConfigError(
            f"An SAE at {middle} does not end the stream there: only the MLP reads what is put in "
            "its place.",
            code="GRAPH_UNSUPPORTED_SAE",
            field="saes",
            got=middle,
            allowed="SAEs at hook_resid_pre, hook_resid_post, or what attention or an MLP writes",
            hint="Choose SAEs of another site: ss.find_saes() lists them.",
        )


def decoded(member: GraphMember, acts: SparseActs, to: int) -> Float[Tensor, "n_pos d_out"]:
    """What the features of a member write at member `to`'s site, without bias."""
    features, which = acts.features.unique(return_inverse=True)
    return F.embedding_bag(
        which,
        member.write_rows(features, to),
        acts.offsets,
        mode="sum",
        per_sample_weights=acts.values,
        include_last_offset=True,
    )


def _skipped(member: GraphMember, x: Tensor) -> Tensor | float:
    skip = member.skip(x)
    return 0.0 if skip is None else skip


class Pass:
    """One pass through the replacement model, with what is `added` where sources write."""

    def __init__(
        self,
        clean: Clean,
        n: int,
        added: Callable[[str, Tensor], Tensor],
        *,
        grad: bool = False,
    ) -> None:
        """Run `n` rows of the prompt. `added` takes the hook and what stands there, and returns
        what does instead."""
        self.clean, self._added = clean, added
        self.read: dict[str, Tensor] = {}
        """What arrives at each hook that is read, [n, n_pos, ...]."""
        rows = clean.ids.expand(n, -1)
        clean.model.run(rows, self._hooks(), grad=grad)

    def _hooks(self) -> list[tuple[str, Callable[..., Tensor | None]]]:
        clean = self.clean
        reads = [(member.read_hook, self._keep(member.read_hook)) for member in clean.members]
        writes = [(site.hook_name, self._write(i)) for i, site in enumerate(clean.sites)]
        constants = [(name, constant(value)) for name, value in clean.constants.items()]
        return [(EMBED, self._embed), *constants, *reads, *writes, (FINAL, self._end)]

    def _keep(self, hook_name: str) -> Callable[..., None]:
        def keep(x: Tensor, hook: object) -> None:
            self.read[hook_name] = x.clone()  # some families write into it later on

        return keep

    def _embed(self, x: Tensor, hook: object) -> Tensor:
        return self._added(EMBED, as_in_each_row(self.clean.there[EMBED], x)).clone()

    def _write(self, i: int) -> Callable[..., Tensor]:
        site, clean = self.clean.sites[i], self.clean
        skips = [
            k for k, m in enumerate(clean.members) if m.cfg.skip and clean.writes[k].get(i) == k
        ]

        def write(x: Tensor, hook: object) -> Tensor:
            # Cloned, because some families write into what they are given: into the clean run.
            there = as_in_each_row(clean.there[site.hook_name], x)
            out = self._added(site.hook_name, there).clone()
            for k in skips:
                out = out + self._skip_change(k).reshape(out.shape)
            if site.cuts and clean.n_left_out:
                # Positions without nodes: what arrives there goes on.
                out = torch.cat([x[:, : clean.n_left_out], out[:, clean.n_left_out :]], dim=1)
            return out

        return write

    def _skip_change(self, k: int) -> Tensor:
        """What the skip connection of member `k` writes beyond what it wrote in the clean run."""
        member, clean = self.clean.members[k], self.clean
        now, before = (clean.x(k, there[member.read_hook]) for there in (self.read, clean.there))
        change = now.reshape(-1, *before.shape) - before
        skipped = member.skip(change.reshape(-1, before.shape[-1]))  # linear: of the change alone
        assert skipped is not None, "only members with a skip connection are asked"
        return skipped

    def _end(self, x: Tensor, hook: object) -> None:
        self.read[FINAL] = x.clone()
        raise StopForward(x)


def constant(value: Tensor) -> Callable[..., Tensor]:
    """A hook that puts this in the place of whatever comes."""
    return lambda x, hook: as_in_each_row(value, x)


def as_in_each_row(value: Tensor, x: Tensor) -> Tensor:
    """A clean run's activation for each row of `x`. Copied, not expanded: some families have the
    positions of all rows on one axis (OPT), some take a `view` of what they are given (Falcon)."""
    n = x.shape[0] // value.shape[0]
    return value if n == 1 else value.repeat(n, *[1] * (value.ndim - 1))


def require_linear(model: LanguageModel, of: GraphMembers, ids: Int[Tensor, "1 n_pos"]) -> None:
    """Raise unless the frozen pass over the first tokens is the clean run, and a straight line in
    what is added.

    Raises:
        ModelError: GRAPH_NOT_LINEAR: part of the model cannot be held as it was.
    """
    clean = read_clean(model, of, ids[:, :_PROBE], n_left_out=1)
    draw = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(there.shape, generator=draw).to(there) * there.std()
        for name, there in clean.there.items()
    }
    passes = [
        Pass(clean, 1, lambda name, there, step=step: there + step * noise[name]).read
        for step in (0.0, 1.0, 2.0)
    ]
    for name, there in clean.there.items():
        if name in passes[0]:
            still, once, twice = (wide(each[name]) for each in passes)
            size = float((once - still).norm() + wide(there).norm())
            bent = float((twice - 2 * once + still).norm() + (still - wide(there)).norm())
            # No finer than float32: transformers' norms compute in it whatever the model's dtype.
            finest = max(torch.finfo(there.dtype).eps, torch.finfo(torch.float32).eps)
            if bent > finest**0.5 * size:
                raise _not_linear(model, name, bent / size)


def _not_linear(model: LanguageModel, hook_name: str, off: float) -> ModelError:
    return ModelError(
        f"With attention patterns, scales of norms and MLPs held, {model.name} is still not "
        f"linear up to {hook_name} (off by {off:.2g} of what is there): a gate, a state or a norm "
        "on the way cannot be held.",
        code="GRAPH_NOT_LINEAR",
        field="model",
        got=model.name,
        allowed="models whose attention shows its pattern and whose norms show their scale",
        hint="Use SAEs of the residual stream: between them the model is linearised as it is.",
    )
