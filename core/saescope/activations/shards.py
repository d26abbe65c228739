"""Activations in shuffled shards: verified by a manifest, read by every SAE of a sweep, from a disk
or an object store."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saescope.activations.buffer import Rows
from saescope.activations.places import Disk, StoreFolder, place_of
from saescope.activations.sources import RowSource
from saescope.cancel import stop_if_cancelled
from saescope.errors import ConfigError, FormatError, NotFoundError, cause_of
from saescope.fence import OWN_BYTES
from saescope.ranks import ALONE, Ranks

MANIFEST = "manifest.json"
READ_ROWS = 4096


class ShardSource(RowSource):
    """Rows of shards, block by block in a new order each epoch; each shard is verified when it is
    first read. Of several ranks, each reads its own shards.

    Behind a URL a shard is fetched as a whole, and the blocks of one come one after another.
    """

    def __init__(
        self, folder: str | Path, *, device: torch.device, seed: int = 0, ranks: Ranks = ALONE
    ) -> None:
        """Raises:
        NotFoundError: FILE_MISSING: the folder holds no finished activations.
        FormatError: FILE_CORRUPT: they are not as they were written.
        ConfigError: OUT_OF_RANGE: there are fewer shards than ranks.
        """
        self.place, self.device = place_of(folder), device
        manifest = read_manifest(self.place)
        self.key: str = manifest["key"]
        self.widths: dict[str, int] = manifest["widths"]
        all_shards: list[dict[str, Any]] = manifest["shards"]
        self.shards = all_shards[ranks.rank :: ranks.size]
        if len(all_shards) < ranks.size:
            raise _too_few(self.place, len(all_shards), ranks)
        self.n_rows = sum(shard["rows"] for shard in self.shards)
        self.max_rows = READ_ROWS
        on_disk = isinstance(self.place, Disk)
        self.memory_bytes = 0 if on_disk else max(shard["bytes"] for shard in self.shards)
        self.fingerprint = hashlib.sha256(f"{self.key} {self.shards} {seed}".encode()).hexdigest()
        self.epoch, self._position, self._seed = 0, 0, seed
        self._order_of: tuple[int, list[int]] = (-1, [])
        self._verified: set[int] = set()
        self._fetched: tuple[int, Rows] = (-1, {})
        self._blocks = [
            (i, start)
            for i, shard in enumerate(self.shards)
            for start in range(0, shard["rows"], READ_ROWS)
        ]
        self._check_sizes()

    def next_rows(self) -> Rows:
        """The rows of the next block."""
        stop_if_cancelled()
        if self._position == len(self._blocks):
            self.epoch, self._position = self.epoch + 1, 0
        shard, start = self._blocks[self._order()[self._position]]
        rows = self._read(shard, start)
        self._position += 1
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return {"position": torch.tensor([self.epoch, self._position])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.epoch, self._position = state["position"].tolist()

    def _order(self) -> list[int]:
        if self._order_of[0] != self.epoch:
            rng = torch.Generator().manual_seed(hash((self._seed, self.epoch)))
            order = torch.randperm(len(self._blocks), generator=rng)
            if not isinstance(self.place, Disk):
                turn = torch.randperm(len(self.shards), generator=rng)
                shard_of = torch.tensor([shard for shard, _ in self._blocks])
                order = order[turn[shard_of[order]].argsort(stable=True)]
            self._order_of = self.epoch, order.tolist()
        return self._order_of[1]

    def _read(self, shard: int, start: int) -> Rows:
        if isinstance(self.place, Disk):
            rows = self._read_mapped(self.place, shard, start)
        else:
            if self._fetched[0] != shard:
                self._fetched = -1, {}  # never two at once
                self._fetched = shard, self._fetch(shard)
            rows = {hook: x[start : start + READ_ROWS] for hook, x in self._fetched[1].items()}
        n = min(READ_ROWS, self.shards[shard]["rows"] - start)
        if any(rows[hook].shape != (n, width) for hook, width in self.widths.items()):
            raise torn(self.place, self.shards[shard]["file"], "its rows are others")
        return {hook: rows[hook].to(self.device) for hook in self.widths}

    def _read_mapped(self, place: Disk, shard: int, start: int) -> Rows:
        from safetensors import SafetensorError, safe_open

        name = self.shards[shard]["file"]
        try:
            if shard not in self._verified:
                self._verify(shard, place.sha256(name))
            with safe_open(place.path / name, "pt") as file:
                return {
                    hook: file.get_slice(hook)[start : start + READ_ROWS] for hook in self.widths
                }
        except (SafetensorError, OSError) as error:
            raise torn(place, name, str(error)) from error

    def _fetch(self, shard: int) -> Rows:
        from safetensors import SafetensorError
        from safetensors.torch import load

        name = self.shards[shard]["file"]
        try:
            data = self.place.read(name, limit=self.shards[shard]["bytes"])
            self._verify(shard, hashlib.sha256(data).hexdigest())
            tensors = load(data)
            return {hook: tensors[hook] for hook in self.widths}
        except (SafetensorError, OSError, KeyError) as error:
            raise torn(self.place, name, cause_of(error)) from error

    def _verify(self, shard: int, sha256: str) -> None:
        if sha256 != self.shards[shard]["sha256"]:
            name = self.shards[shard]["file"]
            raise torn(self.place, name, "its content has changed", "HASH_MISMATCH")
        self._verified.add(shard)

    def _check_sizes(self) -> None:
        sizes = self.place.sizes()
        for shard in self.shards:
            if sizes.get(shard["file"]) != shard["bytes"]:
                raise torn(self.place, shard["file"], "it is missing or cut off")


def read_manifest(place: StoreFolder, name: str = MANIFEST) -> dict[str, Any]:
    """What a store, or a rank's part of one, says that it consists of.

    Raises:
        NotFoundError: FILE_MISSING.
        FormatError: FILE_CORRUPT.
    """
    try:
        manifest = json.loads(place.read(name, limit=OWN_BYTES))
        names = [shard["file"] for shard in manifest["shards"]]
        if not all(Path(file).name == file for file in names) or not manifest["widths"]:
            raise KeyError("shards")
        if not names and name == MANIFEST:
            raise KeyError("shards")
        return manifest
    except FileNotFoundError:
        raise NotFoundError(
            f"The folder {place.title} holds no finished activations.",
            code="FILE_MISSING",
            field="folder",
            got=place.title,
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise torn(place, name, "it is no manifest") from error


def torn(place: StoreFolder, name: str, why: str, code: str = "FILE_CORRUPT") -> FormatError:
    """A file that is not as it was written."""
    return FormatError(
        f"{name!r} of the stored activations is not as it was written: {why}.",
        code=code,
        field="folder",
        got=f"{name} in {place.title}",
        hint="Delete the folder; it will be written again.",
    )


def _too_few(place: StoreFolder, n_shards: int, ranks: Ranks) -> ConfigError:
    return ConfigError(
        f"{place.title} has {n_shards} shards, which {ranks.size} processes cannot share.",
        code="OUT_OF_RANGE",
        field="folder",
        got=ranks.size,
        allowed=f"1..{n_shards} processes",
        hint="Let fewer processes read it.",
    )
