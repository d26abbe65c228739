"""Contexts to activations at one or several hooks, from one forward pass that ends at the last of
them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError
from saescope.hooks import hook_width, record_activations, stream_activations
from saescope.models import LanguageModel, plain_model


class Harvester:
    """Activations `[batch, n_pos, d]` by hook, heads flattened.

    They come from the Hugging Face modules under the bridge (SDPA, no bridge hooks) if on one row
    of tokens these give what the bridge gives, else from the bridge.
    """

    def __init__(self, model: LanguageModel, hook_names: Sequence[str], context_size: int) -> None:
        if not hook_names:
            raise ArgumentError(
                "No hook is named.",
                code="MISSING_ARGUMENT",
                field="hook_name",
                hint='Name one: "blocks.8.hook_resid_pre".',
            )
        self.model = model
        self.widths = {name: hook_width(model, name) for name in dict.fromkeys(hook_names)}
        plain = plain_model(model, list(self.widths))
        self.plain = None
        if plain is not None:
            probe = torch.randint(
                model.d_vocab,
                (1, context_size),
                generator=torch.Generator().manual_seed(0),
            ).to(model.device)
            with model.lock:
                self.plain = (
                    plain
                    if _agree(plain(probe), self._through_bridge(probe), model.dtype)
                    else None
                )

    def __call__(
        self, ids: Int[Tensor, "batch n_pos"]
    ) -> dict[str, Float[Tensor, "batch n_pos _"]]:
        stop_if_cancelled()
        ids = ids.to(self.model.device)
        if self.plain is None:
            return self._through_bridge(ids)
        with self.model.lock:
            activations = self.plain(ids)
        return {name: activations[name].flatten(2) for name in self.widths}

    def stream(self, ids: Int[Tensor, "batch n_pos"], take: Callable[[str, Tensor], None]) -> None:
        """Call `take` with each hook's name and activations at the moment they are there: nothing
        is kept of them here, and the model may change them in place afterwards."""
        stop_if_cancelled()

        def flat(name: str, x: Tensor) -> None:
            take(name, x.flatten(2))

        ids = ids.to(self.model.device)
        if self.plain is None:
            stream_activations(self.model, ids, self.widths, take=flat)
            return
        with self.model.lock:
            self.plain.stream(ids, flat)

    def _through_bridge(
        self, ids: Int[Tensor, "batch n_pos"]
    ) -> dict[str, Float[Tensor, "batch n_pos _"]]:
        return {
            name: x.flatten(2)
            for name, x in record_activations(self.model, ids, self.widths).items()
        }


def _agree(ours: dict[str, Tensor], reference: dict[str, Tensor], dtype: torch.dtype) -> bool:
    """Equal at every position to the square root of the dtype's precision, relative to that
    position's norm."""
    if ours.keys() != reference.keys():
        return False
    pairs = [(ours[name].flatten(2).float(), reference[name].float()) for name in reference]
    if any(a.shape != b.shape for a, b in pairs):
        return False
    tolerance = torch.finfo(dtype).eps ** 0.5
    return all(bool(((a - b).norm(dim=-1) <= tolerance * b.norm(dim=-1)).all()) for a, b in pairs)
