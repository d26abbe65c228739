"""Writing shards, by one process or many at once that need not know of each other: every file has a
name of its own, and the last one to end lists what all have written."""

import errno
import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from saescope.activations.buffer import Rows, n_rows
from saescope.activations.corpus import CorpusSource
from saescope.activations.places import PART, Disk, StoreFolder, place_of
from saescope.activations.shards import MANIFEST, ShardSource, read_manifest
from saescope.activations.store import ActivationStore, StoreConfig
from saescope.activations.text import EMBEDDED, Dataset, open_dataset
from saescope.activations.tokens import ContextConfig
from saescope.devices import DTYPES
from saescope.errors import (
    ConfigError,
    FormatError,
    NotFoundError,
    ResourceError,
    cannot_write,
    cause_of,
)
from saescope.fence import OWN_BYTES
from saescope.models import LanguageModel
from saescope.names import home
from saescope.progress import Progress
from saescope.ranks import ALONE, Ranks

SAVE_EVERY_S = 600.0
SHARD_ROWS = 2**16
N_TOKENS, BATCH_ROWS, BUFFER_ROWS = 1_000_000, 4096, 2**17
SPARE_BYTES = 2**30
_OURS = re.compile(r"(shard|part|position)-.*\.(json|safetensors)")


def cached(
    store: ActivationStore,
    *,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> ShardSource:
    """The activations of a store on disk: those that are there, if they are the same, else written
    now by running it to its end.

    `progress` gets rows written and wanted. A writer that is cut off loses at most `save_every_s`
    and a shard; the next one goes on. The folder, a path or a URL of fsspec, is by default named by
    the store's fingerprint, below `SAESCOPE_HOME`.

    Raises:
        FormatError: the folder holds other activations, or torn ones.
        ResourceError: DISK_FULL.
    """
    folder = folder or home() / "activations" / _key(store)[:32]
    write_share(store, folder, progress=progress, save_every_s=save_every_s)
    return ShardSource(folder, device=store.source.device)


def write_share(
    store: ActivationStore,
    folder: str | Path,
    *,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> bool:
    """Write one rank's rows to a folder, a path or a URL of fsspec, unless all are there; whether
    the folder is whole now.

    The ranks need not run at the same time, and each goes on where it was cut off. The one that
    ends last writes the manifest, without which nothing can be read.

    Raises:
        FormatError: CACHE_MISMATCH: the folder holds other activations.
        ResourceError: DISK_FULL, CANNOT_WRITE.
    """
    place, key = place_of(folder), _key(store)
    try:
        if _is_whole(place, key):
            return True
        _require_space(store, place, ranks)
        shards = _write_shards(store, _RankFiles(place, ranks), progress, save_every_s)
        part = {
            "key": key,
            "dtype": store.cfg.dtype,
            "widths": dict(store.source.widths),
            "shards": shards,
        }
        place.put(_part(ranks.rank, ranks.size), json.dumps(part, indent=1).encode())
        return _join(place, key, ranks)
    except OSError as error:
        raise _cannot_write(place, error) from error


def store_activations(
    model: LanguageModel,
    hook_names: Sequence[str],
    dataset: str | Dataset = EMBEDDED,
    *,
    folder: str | Path,
    progress: Progress | None = None,
    save_every_s: float = SAVE_EVERY_S,
    **settings: Any,
) -> bool:
    """Read a text once and keep its activations in a folder, a path or a URL of fsspec. Returns
    whether the folder is whole now: then `ShardSource` reads it.

    `settings` are those of `ContextConfig` and `StoreConfig`: n_tokens=1_000_000, context_size=128,
    dtype="bfloat16", ... Contexts are read until `n_tokens` of their positions count, or the text
    ends. Of `open_dataset(...).part(ranks)` each process stores its own contexts, and any number
    of processes together the same rows; the last one to end makes the folder whole.

    Raises:
        FormatError: CACHE_MISMATCH: the folder holds other activations.
        ResourceError: DISK_FULL, CANNOT_WRITE.
        NotFoundError: DATASET_EMPTY.
    """
    of_contexts = {field.name for field in fields(ContextConfig)}
    contexts = ContextConfig(**{name: settings[name] for name in settings if name in of_contexts})
    mixing = {name: settings[name] for name in settings if name not in of_contexts - {"seed"}}
    n_tokens = mixing.pop("n_tokens", N_TOKENS)
    opened = open_dataset(dataset) if isinstance(dataset, str) else dataset
    source = CorpusSource(model, hook_names, opened, contexts, n_tokens=n_tokens)
    # Contexts are not cut: the last one may go beyond n_tokens.
    most = n_tokens + contexts.context_size
    asked: dict[str, Any] = {
        "n_tokens": most,
        "batch_size": min(BATCH_ROWS, n_tokens),
        "buffer_tokens": min(BUFFER_ROWS, most),
    }
    store = ActivationStore(source, StoreConfig(**asked | mixing))
    return write_share(
        store, folder, ranks=opened.ranks, progress=progress, save_every_s=save_every_s
    )


class _RankFiles:
    """The files of one rank."""

    def __init__(self, place: StoreFolder, ranks: Ranks) -> None:
        self.place = place
        self.name = f"{ranks.rank:05d}-of-{ranks.size:05d}"
        self.position = f"position-{self.name}.json"

    def put(self, kind: str, number: int, data: bytes) -> dict[str, Any]:
        """Write a file whose name nobody else gives to other bytes."""
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"{kind}-{self.name}-{number:05d}-{sha256[:16]}.safetensors"
        self.place.put(name, data)
        return {"file": name, "bytes": len(data), "sha256": sha256}


def _write_shards(
    store: ActivationStore, writer: _RankFiles, progress: Progress | None, save_every_s: float
) -> list[dict[str, Any]]:
    shards = _go_on(store, writer)
    batches: list[Rows] = []
    done, saved_at = sum(shard["rows"] for shard in shards), time.monotonic()
    for batch in store:
        batches.append({name: x.to(DTYPES[store.cfg.dtype]) for name, x in batch.items()})
        done += n_rows(batch)
        if progress:
            progress(done, store.cfg.n_tokens)
        if sum(map(n_rows, batches)) >= SHARD_ROWS:
            shards.append(_write_shard(writer, len(shards), batches))
            batches = []
            if time.monotonic() - saved_at >= save_every_s:
                _save_position(store, shards, writer)
                saved_at = time.monotonic()
    if batches:
        shards.append(_write_shard(writer, len(shards), batches))
    return shards


def _write_shard(writer: _RankFiles, number: int, batches: list[Rows]) -> dict[str, Any]:
    from safetensors.torch import save

    rows = {name: torch.cat([b[name] for b in batches]).cpu().contiguous() for name in batches[0]}
    return writer.put("shard", number, save(rows)) | {"rows": n_rows(rows)}


def _save_position(
    store: ActivationStore, shards: list[dict[str, Any]], writer: _RankFiles
) -> None:
    """Save after a shard what a writer goes on from if this one is killed. The older position is
    there until the newer one is whole."""
    from safetensors.torch import save

    data = save({name: x.cpu().contiguous() for name, x in store.state_dict().items()})
    state = writer.put("position", len(shards), data)
    position = json.dumps({"state": state, "shards": shards})
    writer.place.put(writer.position, position.encode())
    for name in writer.place.sizes():
        if name.startswith(f"position-{writer.name}-") and name != state["file"]:
            writer.place.remove(name)


def _go_on(store: ActivationStore, writer: _RankFiles) -> list[dict[str, Any]]:
    """The shards that an unfinished writer of the same rows left; the store then stands behind
    them. None: all is written anew."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    place = writer.place
    try:
        position = json.loads(place.read(writer.position, limit=OWN_BYTES))
        state, shards = position["state"], position["shards"]
        for entry in shards:
            _require_own(entry)
            if not place.holds(entry["file"], n_bytes=entry["bytes"], sha256=entry["sha256"]):
                return []
        _require_own(state)
        data = place.read(state["file"], limit=state["bytes"])
        if hashlib.sha256(data).hexdigest() != state["sha256"]:
            return []
        store.load_state_dict(load(data))
        return shards
    # There is none, or it is torn or of other settings.
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, ConfigError):
        return []


def _require_own(entry: dict[str, Any]) -> None:
    if not _OURS.fullmatch(entry["file"]) or Path(entry["file"]).name != entry["file"]:
        raise ValueError(entry["file"])


def _is_whole(place: StoreFolder, key: str) -> bool:
    """Whether the folder has a manifest; what is in it is then these activations, or an error."""
    if MANIFEST not in place.sizes():
        return False
    _require_key(place, read_manifest(place), key)
    return True


def _join(place: StoreFolder, key: str, ranks: Ranks) -> bool:
    """List all shards in a manifest if every rank has ended, and remove what is not in it. Several
    ranks that end at once write the same."""
    if not _is_whole(place, key):
        try:
            parts = [read_manifest(place, _part(rank, ranks.size)) for rank in range(ranks.size)]
        except NotFoundError:  # some are not done, or another one was here in between
            return _is_whole(place, key)
        for part in parts:
            _require_key(place, part, key)
        manifest = parts[0] | {"shards": [shard for part in parts for shard in part["shards"]]}
        place.put(MANIFEST, json.dumps(manifest, indent=1).encode())
    kept = {shard["file"] for shard in read_manifest(place)["shards"]}
    for name in place.sizes():
        if name not in kept and (_OURS.fullmatch(name) or PART.fullmatch(name)):
            place.remove(name)
    return True


def _part(rank: int, size: int) -> str:
    return f"part-{rank:05d}-of-{size:05d}.json"


def _key(store: ActivationStore) -> str:
    of = f"{store.source.fingerprint} {store.cfg.n_tokens} {store.cfg.dtype}"
    return hashlib.sha256(of.encode()).hexdigest()


def _require_key(place: StoreFolder, manifest: dict[str, Any], key: str) -> None:
    if manifest["key"] != key:
        raise FormatError(
            f"The folder {place.title} holds the activations of another model, text "
            "or configuration.",
            code="CACHE_MISMATCH",
            field="folder",
            got=place.title,
            hint="Name another folder, or delete this one.",
        )


def _require_space(store: ActivationStore, place: StoreFolder, ranks: Ranks) -> None:
    if not isinstance(place, Disk):
        return
    row_bytes = DTYPES[store.cfg.dtype].itemsize * sum(store.source.widths.values())
    place.path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place.path).free
    needed = store.cfg.n_tokens * row_bytes // ranks.size + SPARE_BYTES
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        )


def _cannot_write(place: StoreFolder, error: OSError) -> ResourceError:
    if isinstance(place, Disk):
        return cannot_write(
            "The activations",
            place.path,
            error,
            field="folder",
            hint="Free some space there or make it writable, use fewer tokens, or train "
            "without the cache.",
        )
    return ResourceError(
        f"The activations cannot be written to {place.title}: {cause_of(error)}.",
        code="CANNOT_WRITE",
        field="folder",
        got=place.title,
        hint="Look whether the place exists and the environment's credentials may write there, "
        "then run it again: it goes on.",
    )
