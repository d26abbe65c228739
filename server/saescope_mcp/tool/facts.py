"""What many replies say alike: what the numbers were computed with, and what was left out of them."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import TYPE_CHECKING

from saescope import __version__
from saescope_mcp.schemas.common import Provenance
from saescope_mcp.state import LoadedSAE

if TYPE_CHECKING:
    from saescope.models import Tokens


def provenance(loaded: LoadedSAE, seed: int | None = None) -> Provenance:
    return Provenance(
        model=loaded.model.name,
        revision=loaded.model.revision,
        sae=loaded.handle,
        weights_hash=loaded.weights_hash,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=str(loaded.model.device),
        seed=seed,
        versions=versions(),
    )


@cache
def versions() -> dict[str, str]:
    """Of everything that the numbers may depend on."""
    found = {"saescope": __version__, "python": python_version()}
    for name in ("torch", "transformers", "transformer-lens", "tokenizers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def stands_out(effect: float, control_mean: float | None, control_sd: float | None) -> bool:
    """Whether an effect is further than two standard deviations from what controls do; without a spread nothing can be said against it."""
    return control_mean is None or control_sd is None or abs(effect - control_mean) > 2 * control_sd


def spread(control_mean: float, control_sd: float | None) -> str:
    return f"{control_mean:.3g}" + (f" ± {control_sd:.2g}" if control_sd is not None else "")


def left_out(n_left_out: int, tokens: "Sequence[Tokens]", *, named: bool = False) -> str:
    """A sentence for the summary."""
    bos = "BOS was prepended" if tokens[0].bos_prepended else "No BOS was prepended"
    which = "all positions but those named" if named else "position 0 and special tokens"
    return f"{bos}; {which} were left out ({n_left_out})." if n_left_out else f"{bos}; no position was left out."


def nothing_left(n_tokens: int) -> list[str]:
    """A warning if every position was left out."""
    return [] if n_tokens else ["Every position was left out (position 0 and special tokens): use a longer text or include_special=true."]


def brief(text: str) -> str:
    """A prompt as it stands in a suggested call; a long one is not repeated."""
    return text if len(text) <= 300 else "..."


def feature_url(loaded: LoadedSAE, feature: int) -> str | None:
    """Its page on Neuronpedia, for an SAE that is there."""
    neuronpedia_id = loaded.sae.cfg.metadata.neuronpedia_id
    return f"https://www.neuronpedia.org/{neuronpedia_id}/{feature}" if neuronpedia_id else None
