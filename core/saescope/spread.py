"""Features that write at several layers, as those of a cross-layer transcoder do: an edit is made
where the SAE writes first, and goes on at the sites of later layers in the same forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import ConfigError
from saescope.hooks import Edit
from saescope.names import same_site, split_hook
from saescope.saes import SAE
from saescope.splice import add_at_site, write_hook


class Spread(NamedTuple):
    """A change of features that each write at several layers: the same change of the activations
    everywhere, times the decoder rows of each layer."""

    here: Float[Tensor, "n_pos d_out"]
    """What is added at the SAE's own site."""
    amounts: Float[Tensor, "n_edits n_pos"]
    """f' - f of each edited feature."""
    later: Mapping[str, Float[Tensor, "n_edits d_out"]]
    """The decoder rows of later layers, by the hook where they write."""

    @property
    def is_change(self) -> bool:
        """Whether anything changes anywhere."""
        moved = self.amounts.any(dim=-1)
        rows = torch.stack([rows.any(dim=-1) for rows in self.later.values()])
        return bool(self.here.any()) or bool((moved & rows.any(dim=0)).any())

    def at(self, hook_name: str) -> Float[Tensor, "n_pos d_out"]:
        """What is added at the site of a later layer."""
        return self.amounts.T @ self.later[hook_name]


@dataclass(frozen=True, slots=True)
class Later:
    """What the edits of the forward pass under way still add at sites further up."""

    made: dict[tuple[int, int], Spread] = field(default_factory=dict[tuple[int, int], Spread])
    """By SAE and row of the batch; each pass puts its own in the place of the last one's."""

    def here(self, change: Tensor | Spread, i: int, row: int) -> Tensor:
        """What a change adds at the site of SAE `i` itself; the rest waits."""
        if isinstance(change, Tensor):
            return change
        self.made[i, row] = change
        return change.here

    def hooks(self, saes: Sequence[SAE]) -> dict[str, Edit]:
        """Hooks at the later sites that these SAEs write."""
        return {name: partial(self._add, name) for sae in saes for name in later_hooks(sae)}

    def _add(self, hook_name: str, written: Tensor) -> Tensor:
        own = {key: made for key, made in self.made.items() if hook_name in made.later}
        if not own:
            return written
        added: Tensor | None = None
        for (_, row), made in own.items():
            change = made.at(hook_name)
            if added is None:
                added = change.new_zeros(len(written), *change.shape)
            added[row] += change
        assert added is not None, "there is at least one"
        return add_at_site(written, added)


def later_hooks(sae: SAE) -> list[str]:
    """The hooks of the later layers that a layer of a cross-layer transcoder writes; of any other
    SAE none."""
    if sae.decoders is None:
        return []
    own = write_hook(sae)
    layer = split_hook(own)[0]
    assert layer is not None, "a cross-layer transcoder writes at the sites of layers"
    return [same_site(own, layer + further) for further in range(1, sae.decoders.n)]


def require_decoders(sae: SAE) -> None:
    """Raise for a layer of a cross-layer transcoder that has the sum of its decoders alone.

    Raises:
        ConfigError: CROSS_LAYER_FEATURE.
    """
    if sae.cfg.metadata.sums_decoders and sae.decoders is None:
        raise _cross_layer(
            sae,
            "this copy has the sum of its decoders alone: all of it would be written at the first.",
            'Load it from the files in which every layer has its decoder: ss.load_sae(".../'
            'W_enc_5.safetensors").',
            facts={"copy": True},
        )


def require_one_site(saes: Sequence[SAE], what: str) -> None:
    """Raise where an SAE is a layer of a cross-layer transcoder, for what is done at one site.

    Raises:
        ConfigError: CROSS_LAYER_FEATURE.
    """
    for sae in saes:
        if sae.cfg.metadata.sums_decoders:
            raise _cross_layer(
                sae,
                f"{what} looks at the first alone.",
                "Trace a circuit of the whole set: ss.trace_circuit(model, ss.load_set(...), "
                "tokens); or change features with ss.intervene and ss.steer.",
                facts={"copy": False},
            )


def _cross_layer(sae: SAE, why: str, hint: str, facts: Mapping[str, bool]) -> ConfigError:
    return ConfigError(
        f"A feature of a cross-layer transcoder writes at several layers, and {why}",
        code="CROSS_LAYER_FEATURE",
        field="sae",
        got=write_hook(sae),
        allowed="SAEs and transcoders that write at one layer",
        hint=hint,
        facts=facts,
    )


def own_rows(sae: SAE, features: Int[Tensor, " n"]) -> Float[Tensor, "n d_out"]:
    """What features write at the SAE's own site, a unit of each."""
    return sae.directions(features) if sae.decoders is None else sae.decoders.rows(features, 0)


def later_rows(sae: SAE, features: Int[Tensor, " n"]) -> dict[str, Float[Tensor, "n d_out"]]:
    """What features write at each later site, a unit of each."""
    decoders = sae.decoders
    if decoders is None:
        return {}
    return {name: decoders.rows(features, n) for n, name in enumerate(later_hooks(sae), 1)}
