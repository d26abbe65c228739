"""Tensors of which each rank holds some rows, on disk: torch.distributed.checkpoint over
safetensors, so that there is no pickle, each rank writes what it holds, and any number of ranks
reads what each of them will hold.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from saescope.ranks import Ranks

FILES = "shard-*.safetensors"


class Cut(NamedTuple):
    """Which tensors are cut into rows, and for how many ranks."""

    ranks: Ranks
    rows_of: Callable[[str], bool]
    """Whether each rank has its share of the rows of a tensor of that name; else it has all."""

    def own(self, name: str, x: Tensor) -> Tensor:
        """What this rank holds of a tensor that is there as a whole."""
        return x[self.ranks.share(len(x))] if self.rows_of(name) else x


def own_files(folder: Path, ranks: Ranks) -> list[Path]:
    """The files that this rank wrote."""
    return sorted(folder.glob(FILES.replace("*", f"{ranks.rank + 1:05d}-*")))


def write(folder: Path, tensors: Mapping[str, Tensor], cut: Cut) -> None:
    """Write all tensors; those that every rank has as a whole are written once."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    lengths = cut.ranks.each({name: len(x) for name, x in tensors.items() if cut.rows_of(name)})
    parts = {
        name: _part(x, sum(each[name] for each in lengths)) if cut.rows_of(name) else x
        for name, x in tensors.items()
    }
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save(parts, storage_writer=writer)


def read(folder: Path, cut: Cut) -> dict[str, Tensor]:
    """This rank's tensors, by whatever number of ranks they were written."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    there = reader.read_metadata().state_dict_metadata
    own, wanted = dict[str, Tensor](), dict[str, Tensor]()
    for name, entry in there.items():
        size, dtype = list(entry.size), entry.properties.dtype  # type: ignore[union-attr]
        n = size[0] if size and cut.rows_of(name) else 0
        cut_here = bool(n) and not cut.ranks.alone
        if cut_here:
            share = cut.ranks.share(n)
            size[0] = share.stop - share.start
        own[name] = torch.empty(size, dtype=dtype)
        wanted[name] = _part(own[name], n) if cut_here else own[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(wanted, storage_reader=reader, no_dist=cut.ranks.alone)
    return own


def _part(x: Tensor, n_rows: int) -> Tensor:
    """This rank's rows as a part of a tensor that has so many."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    shape = torch.Size([n_rows, *x.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(x, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
