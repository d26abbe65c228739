"""What is said of an SAE that a job has made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saescope_mcp.replies.facts import versions
from saescope_mcp.state import Placement, Source
from saescope_mcp.state.sources import KnownHandles

if TYPE_CHECKING:
    from saescope.models import LanguageModel


def remembered(path: Path, model: str, model_handle: str, hook_name: str) -> str:
    """The handle by which an SAE that was just saved is loaded from now on."""
    source, handles = Source(path=str(path), model=model), KnownHandles()
    handle = handles.name(model_handle, source, hook_name)
    handles.remember(handle, source, Placement())
    return handle


def provenance(model: "LanguageModel", seed: int) -> dict[str, Any]:
    """What trained SAEs rest on."""
    return {
        "model": model.name,
        "revision": model.revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "seed": seed,
        "versions": versions(),
    }
