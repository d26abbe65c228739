"""The front door for SAEs: a release on the hub, a folder on disk, or the embedded default."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from saescope import hub
from saescope.devices import pick_device, pick_dtype
from saescope.embedded import EMBEDDED_SAE_DIR
from saescope.errors import ArgumentError, FormatError, NotFoundError
from saescope.formats import DIALECTS, Source, local_source
from saescope.saes import ARCHITECTURES, SAE, SAEConfig


class SAEInfo(NamedTuple):
    """What is known of an SAE before a weight is read."""

    cfg: SAEConfig
    weights_bytes: int
    """Size in memory as float32."""
    source: str


class _Found(NamedTuple):
    source: Source
    dialect: ModuleType
    name: str


def load_sae(
    path: str | Path | None = None,
    *,
    release: str = "",
    sae_id: str = "",
    device: str = "auto",
    dtype: str = "auto",
    revision: str = "",
    offline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> SAE:
    """The SAE of a folder, of a release (`release` and `sae_id`), or without arguments the embedded one.

    Raises:
        NotFoundError, OfflineError: it is not there, or not here and the network is not to be used.
        ConfigError, FormatError: its files are incomplete, torn or in a dialect that saescope does not read.
    """
    found = _locate(path, release, sae_id, revision, offline, progress)
    where = pick_device(device)
    stored = getattr(torch, found.dialect.peek(found.source)[0].dtype)
    cfg, tensors = found.dialect.read(found.source, pick_dtype(dtype, where, stored))
    return ARCHITECTURES[cfg.architecture][1](cfg, tensors).to(where)


def peek_sae(path: str | Path | None = None, *, release: str = "", sae_id: str = "", revision: str = "", offline: bool = False) -> SAEInfo:
    """Configuration and size of an SAE, from its configuration and the header of its weights."""
    found = _locate(path, release, sae_id, revision, offline, None)
    cfg, header = found.dialect.peek(found.source)
    return SAEInfo(cfg, sum(4 * torch.Size(info.shape).numel() for info in header.values()), found.name)


def _locate(
    path: str | Path | None, release: str, sae_id: str, revision: str, offline: bool, progress: Callable[[str], None] | None
) -> _Found:
    if path and release:
        raise ArgumentError("Give either a path or a release, not both.", field="path", hint="Leave one of them out.")
    if release:
        if not sae_id:
            raise ArgumentError(
                "A release needs a sae_id.",
                code="MISSING_ARGUMENT",
                field="sae_id",
                hint=f'Call load_sae(release="{release}", sae_id="...").',
            )
        found = hub.resolve(release, sae_id)
        dialect = DIALECTS[0]
        folder = hub.download(found.repo_id, sae_id, dialect.FILES, revision=revision, offline=offline, progress=progress)
        known = dict(found.metadata) | ({"neuronpedia_id": found.saes[sae_id]} if found.saes[sae_id] else {})
        return _Found(replace(local_source(folder), known=known), dialect, f"{release}/{sae_id}")
    folder = Path(path).expanduser() if path else EMBEDDED_SAE_DIR
    source = local_source(folder)
    files = {source.path} if source.path else set(source.names)
    dialect = next((dialect for dialect in DIALECTS if dialect.matches(files)), None)
    if dialect is None:
        raise _unknown_dialect(folder, files)
    return _Found(source, dialect, str(folder))


def _unknown_dialect(folder: Path, files: set[str]) -> NotFoundError | FormatError:
    wanted = DIALECTS[0].FILES
    missing = sorted(set(wanted) - files)
    if missing != sorted(wanted):
        return NotFoundError(
            f"The folder {folder.name!r} has no {missing[0]}.", code="FILE_MISSING", field="path", got=sorted(files)[:10], allowed=wanted
        )
    pickles = sorted(name for name in files if name.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt")))
    if pickles:
        return FormatError(
            f"{pickles[0]} is a pickle: loading it can run code, so saescope does not.",
            code="PICKLE_REFUSED",
            field="path",
            got=pickles[0],
            hint="Convert it to safetensors in an environment that you trust.",
        )
    return FormatError(
        f"The folder {folder.name!r} holds no SAE that saescope reads.",
        code="UNKNOWN_FORMAT",
        field="path",
        got=sorted(files)[:10],
        allowed=wanted,
        hint="Give the folder that holds cfg.json and sae_weights.safetensors.",
    )
