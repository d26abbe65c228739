"""The sources of SAEs, their handles, and those known from earlier runs."""

import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from saescope.errors import ArgumentError, OfflineError
from saescope.fence import read_own
from saescope.names import Source, home, split_hook
from saescope_mcp.jobs.locks import locked
from saescope_mcp.schemas.common import next_call
from saescope_mcp.settings import Settings
from saescope_mcp.state.fences import readable

_ANY = "{layer}"
"""Stands for the layer in the path or id of a set."""
log = logging.getLogger("saescope")


@dataclass(frozen=True, slots=True)
class Placement:
    """How an SAE is loaded: device, dtype and leniency, and whether its model is loaded no further
    than it needs."""

    device: str = "auto"
    dtype: str = "auto"
    allow_mismatch: bool = False
    up_to_site: bool = False


def load_call(source: Source, placement: Placement) -> str:
    """Write the exact call that loads this."""
    arguments = asdict(source) | asdict(placement)
    changed = {name: value for name, value in arguments.items() if value not in ("", "auto", False)}
    return next_call("load_sae", **changed)


def handle_for(model_handle: str, source: Source, hook_name: str) -> str:
    """Make the handle `<model>/<layer>.<site>[/<tag>]`."""
    layer, site = split_hook(hook_name)
    layer = source.layers or layer
    base = f"{model_handle}/{site}" if layer is None else f"{model_handle}/{layer}.{site}"
    tag = Path(source.path.partition(_ANY)[0] + "x").parent.name if _ANY in source.path else ""
    path = Path(source.path)
    of_set = layer is not None and re.fullmatch(r"layer_\d+", path.name)  # says what base says
    tag = tag or (path.parent.name if of_set else path.name)
    if source.release:
        inside = source.sae_id.replace(_ANY, "").replace("*", "")
        tag = source.release.rsplit("/", 1)[-1] + (
            f"-{inside}" if inside and source.sae_id != hook_name else ""
        )
    tag = re.sub(r"[^A-Za-z0-9_.+-]+", "-", tag).rstrip("-")[:80]
    return f"{base}/{tag}" if tag else base


def dataset_name(dataset: str, settings: Settings) -> str:
    """ "embedded" or a dataset of the hub as it is; a local file or folder resolved and checked.

    Raises:
        ArgumentError, OfflineError: it may not be read.
    """
    if dataset == "embedded":
        return dataset
    if not dataset.startswith("hf:"):
        return readable(dataset, settings, "dataset")
    if settings.offline:
        raise OfflineError(
            "A dataset of the hub needs the network, which SAESCOPE_OFFLINE forbids.",
            field="dataset",
            got=dataset,
            hint='Use local files or dataset="embedded".',
        )
    return dataset


def model_name(model: str, settings: Settings) -> str:
    """A hub name as it is; a local folder or file resolved and checked.

    Raises:
        ArgumentError: neither a hub name nor a path that may be read.
    """
    if not model:
        return ""
    looks_local = (
        model.startswith((".", "/", "~", "\\"))
        or "\\" in model
        or model.lower().endswith(".gguf")
        or Path(model).is_absolute()
    )
    if looks_local or os.path.exists(model):
        return readable(model, settings, "model")
    if ".." in model or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model):
        raise ArgumentError(
            f"{model!r} is no model name.",
            code="INVALID_REPO_ID",
            field="model",
            got=model,
            allowed="owner/name, a local folder or a .gguf file",
            hint='Call load_sae again with, say, model="HuggingFaceTB/SmolLM2-135M-Instruct".',
        )
    return model


class KnownHandles:
    """Handles of every SAE loaded so far, kept in `handles.json` so that they mean the same after a
    restart."""

    def __init__(self) -> None:
        self._file = home() / "handles.json"

    def all(self) -> dict[str, tuple[Source, Placement]]:
        try:
            rows = json.loads(read_own(self._file))
            return {
                handle: (_only(Source, row), _only(Placement, row)) for handle, row in rows.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning(
                "%s cannot be read (%s); handles start anew", self._file.name, type(error).__name__
            )
            return {}

    def local(self) -> list[str]:
        """The calls that load SAEs from this machine's own files."""
        return [
            load_call(source, placement)
            for source, placement in self.all().values()
            if source.path and Path(source.path).exists()
        ]

    def name(
        self, model_handle: str, source: Source, hook_name: str, *, tagged: Source | None = None
    ) -> str:
        """Return the handle that this source has, or a free one, called after `tagged` if that is
        given: the SAEs of a set after the set."""
        known = self.all()
        old = next(
            (
                handle
                for handle, (other, _) in known.items()
                if other == source and handle.startswith(f"{model_handle}/")
            ),
            None,
        )
        handle = old or handle_for(model_handle, tagged or source, hook_name)
        if handle in known and known[handle][0] != source:
            return f"{handle}{'/' if handle.count('/') == 1 else '-'}{source.digest}"
        return handle

    def remember(self, handle: str, source: Source, placement: Placement) -> None:
        self.remember_all({handle: source}, placement)

    def remember_all(self, named: Mapping[str, Source], placement: Placement) -> None:
        """Keep these handles for the next run."""
        try:
            with locked(self._file.with_suffix(".lock")):
                rows = {
                    name: asdict(old) | asdict(where) for name, (old, where) in self.all().items()
                }
                rows |= {
                    handle: asdict(source) | asdict(placement) for handle, source in named.items()
                }
                _replace(self._file, json.dumps(rows, indent=1))
        except OSError as error:
            log.warning(
                "%s are not kept for the next run: %s", ", ".join(named), type(error).__name__
            )


def _replace(path: Path, text: str) -> None:
    """All of it or nothing; nothing else stays beside it. Raises OSError."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
    ) as file:
        aside = Path(file.name)
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _only(kind: type, row: dict[str, object]):
    return kind(**{field.name: row[field.name] for field in fields(kind) if field.name in row})
