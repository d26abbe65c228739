"""Activations in shuffled shards on disk: written once, verified by a manifest, read by every SAE
of a sweep."""

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saescope.activations.buffer import Rows, n_rows
from saescope.activations.sources import RowSource
from saescope.activations.store import ActivationStore
from saescope.cancel import stop_if_cancelled
from saescope.devices import DTYPES
from saescope.errors import ConfigError, FormatError, NotFoundError, cannot_write
from saescope.fence import open_own, read_own
from saescope.names import home
from saescope.progress import Progress

MANIFEST, POSITION = "manifest.json", "position.json"
SAVE_EVERY_S = 600.0
SHARD_ROWS = 2**16
READ_ROWS = 4096
SPARE_BYTES = 2**30


def cached(
    store: ActivationStore,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> "ShardSource":
    """The activations of a store on disk: those that are there, if they are the same, else written
    now by running it to its end.

    `progress` gets rows written and wanted. A writer that is cut off loses at most `save_every_s`
    and a shard; the next one goes on. The folder is by default named by the store's fingerprint,
    below `SAESCOPE_HOME`.

    Raises:
        FormatError: the folder holds other activations, or torn ones.
        ResourceError: DISK_FULL.
    """
    key = hashlib.sha256(
        f"{store.source.fingerprint} {store.cfg.n_tokens} {store.cfg.dtype}".encode()
    ).hexdigest()
    folder = folder or home() / "activations" / key[:32]
    if not (folder / MANIFEST).is_file():
        _write(store, folder, key, progress or (lambda done, total: None), save_every_s)
    source = ShardSource(folder, device=store.source.device)
    if source.key != key:
        raise FormatError(
            f"The folder {folder.name!r} holds the activations of another model, text "
            "or configuration.",
            code="CACHE_MISMATCH",
            field="folder",
            got=folder,
            hint="Name another folder, or delete this one.",
        )
    return source


class ShardSource(RowSource):
    """Rows of shards, block by block in a new order each epoch; each shard is verified when it is
    first read."""

    def __init__(self, folder: Path, *, device: torch.device, seed: int = 0) -> None:
        self.folder, self.device = folder, device
        manifest = _read_manifest(folder)
        self.key: str = manifest["key"]
        self.widths = manifest["widths"]
        self.shards: list[dict[str, Any]] = manifest["shards"]
        self.n_rows = sum(shard["rows"] for shard in self.shards)
        self.max_rows = READ_ROWS
        self.memory_bytes = 0
        self.fingerprint = hashlib.sha256(f"{self.key} {self.shards} {seed}".encode()).hexdigest()
        self.epoch, self._position, self._seed = 0, 0, seed
        self._verified: set[str] = set()
        self._blocks = [
            (shard["file"], start)
            for shard in self.shards
            for start in range(0, shard["rows"], READ_ROWS)
        ]
        self._check_sizes()

    def next_rows(self) -> Rows:
        """The rows of the next block."""
        stop_if_cancelled()
        if self._position == len(self._blocks):
            self.epoch, self._position = self.epoch + 1, 0
        name, start = self._blocks[self._order()[self._position]]
        rows = self._read(name, start)
        self._position += 1
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return {"position": torch.tensor([self.epoch, self._position])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.epoch, self._position = state["position"].tolist()

    def _order(self) -> list[int]:
        rng = torch.Generator().manual_seed(hash((self._seed, self.epoch)))
        return torch.randperm(len(self._blocks), generator=rng).tolist()

    def _read(self, name: str, start: int) -> Rows:
        from safetensors import SafetensorError, safe_open

        self._verify(name)
        try:
            with safe_open(self.folder / name, "pt") as file:
                return {
                    hook: file.get_slice(hook)[start : start + READ_ROWS].to(self.device)
                    for hook in self.widths
                }
        except (SafetensorError, OSError) as error:
            raise _torn(self.folder / name, str(error)) from error

    def _verify(self, name: str) -> None:
        if name not in self._verified:
            shard = next(shard for shard in self.shards if shard["file"] == name)
            if _sha256(self.folder / name) != shard["sha256"]:
                raise _torn(self.folder / name, "its content has changed", "HASH_MISMATCH")
            self._verified.add(name)

    def _check_sizes(self) -> None:
        for shard in self.shards:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise _torn(path, "it is missing or cut off")


def _write(
    store: ActivationStore,
    folder: Path,
    key: str,
    progress: Progress,
    save_every_s: float,
) -> None:
    """Shards first, the manifest last: a folder without one is unfinished, and goes on from its
    last saved position."""
    row_bytes = DTYPES[store.cfg.dtype].itemsize * sum(store.source.widths.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(folder).free, store.cfg.n_tokens * row_bytes + SPARE_BYTES
        if free < needed:
            raise OSError(
                errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
            )
        shards = _write_shards(store, folder, progress, save_every_s)
        manifest = {
            "key": key,
            "dtype": store.cfg.dtype,
            "widths": dict(store.source.widths),
            "shards": shards,
        }
        _put(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        (folder / POSITION).unlink(missing_ok=True)
        _drop_positions(folder)
    except OSError as error:
        raise cannot_write(
            "The activations",
            folder,
            error,
            field="folder",
            hint="Free some space there or make it writable, use fewer tokens, or train "
            "without the cache.",
        ) from error


def _write_shards(
    store: ActivationStore, folder: Path, progress: Progress, save_every_s: float
) -> list[dict[str, Any]]:
    from safetensors.torch import save

    shards = _go_on(store, folder)
    batches: list[Rows] = []
    done, saved_at = sum(shard["rows"] for shard in shards), time.monotonic()
    for batch in store:
        batches.append({name: x.to(DTYPES[store.cfg.dtype]) for name, x in batch.items()})
        done += n_rows(batch)
        progress(done, store.cfg.n_tokens)
        n_pending = sum(map(n_rows, batches))
        if n_pending >= SHARD_ROWS or done == store.cfg.n_tokens:
            data = save(
                {
                    name: torch.cat([b[name] for b in batches]).cpu().contiguous()
                    for name in store.source.widths
                }
            )
            name = f"shard-{len(shards):05d}.safetensors"
            _put(folder / name, data)
            shards.append(
                {
                    "file": name,
                    "rows": n_pending,
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
            )
            batches = []
            if time.monotonic() - saved_at >= save_every_s and done < store.cfg.n_tokens:
                _save_position(store, shards, folder)
                saved_at = time.monotonic()
    return shards


def _save_position(store: ActivationStore, shards: list[dict[str, Any]], folder: Path) -> None:
    """Save after each shard what a writer goes on from if this one is killed. The older position is
    there until the newer one is whole."""
    from safetensors.torch import save

    data = save({name: x.cpu().contiguous() for name, x in store.state_dict().items()})
    name = f"position-{len(shards):05d}.safetensors"
    _put(folder / name, data)
    position = {"state": name, "sha256": hashlib.sha256(data).hexdigest(), "shards": shards}
    _put(folder / POSITION, json.dumps(position).encode())
    _drop_positions(folder, keep=name)


def _drop_positions(folder: Path, *, keep: str = "") -> None:
    for path in folder.glob("position-*"):
        if path.name != keep:
            path.unlink()


def _go_on(store: ActivationStore, folder: Path) -> list[dict[str, Any]]:
    """The shards that an unfinished writer of the same rows left; the store then stands behind
    them. None: all is written anew."""
    from safetensors.torch import load_file

    try:
        position = json.loads(read_own(folder / POSITION))
        files = {position["state"]: position["sha256"]} | {
            shard["file"]: shard["sha256"] for shard in position["shards"]
        }
        if any(_sha256(folder / Path(name).name) != sha256 for name, sha256 in files.items()):
            return []
        store.load_state_dict(load_file(folder / position["state"]))
        return position["shards"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ConfigError,
    ):  # there is none, or it is torn or of other settings
        return []


def _put(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(read_own(folder / MANIFEST))
        names = [shard["file"] for shard in manifest["shards"]]
        if (
            not all(Path(name).name == name for name in names)
            or not manifest["widths"]
            or not names
        ):
            raise KeyError("shards")
        return manifest
    except FileNotFoundError:
        raise NotFoundError(
            f"The folder {folder.name!r} holds no finished activations.",
            code="FILE_MISSING",
            field="folder",
            got=folder,
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise _torn(folder / MANIFEST, "it is no manifest") from error


def _sha256(path: Path) -> str:
    with open_own(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _torn(path: Path, why: str, code: str = "FILE_CORRUPT") -> FormatError:
    return FormatError(
        f"{path.name!r} of the stored activations is not as it was written: {why}.",
        code=code,
        field="folder",
        got=path,
        hint="Delete the folder; it will be written again.",
    )
