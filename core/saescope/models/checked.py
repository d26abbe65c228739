"""A model's files as transformers is let to see them, and what they ask for, judged before it does
as they say."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from saescope.embedded import model_dir
from saescope.errors import ModelError
from saescope.fence import check_linked, open_file
from saescope.hub import Fetch
from saescope.models.demands import has_packed_tensors
from saescope.models.estimate import check_counts, check_size
from saescope.models.folder import INDEX, check_names, check_references, read_json, staged
from saescope.models.gguf_header import check_gguf
from saescope.models.sizes import peek_model_bytes


@contextmanager
def checked(source: str, fetch: Fetch, *, local: bool) -> Generator[str]:
    """Yield what transformers may read: a private folder for a local model, its name for one on the
    hub.

    Raises:
        ArgumentError, FormatError, ModelError: as `staged`.
    """
    if _is_own(source):
        yield source
    elif local:
        with staged(Path(source)) as private:
            yield str(private)
    else:
        _check_cached(source, fetch)
        yield source


def check_fits(config: Any, source: str, *, local: bool, **size: Any) -> None:
    """That the model fits this machine, and a local one its files; takes and raises what
    `check_size` does."""
    if not _is_own(source):
        check_size(config, stored=_n_stored(source) if local else 0, **size)


def check_gguf_file(path: Path, name: str) -> int:
    """The number of weights of a GGUF file, which can be what it says.

    Raises:
        FormatError, ModelError, ResourceError: as `check_gguf` and `check_size`.
    """
    from transformers import AutoConfig

    with open_file(path, field="model") as file:
        n_stored = check_gguf(file, path.name)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    check_size(config, name=name, dtype=torch.float32, stored=n_stored)
    return n_stored


def _n_stored(folder: str) -> int:
    """The number of weights in a folder's files; 0 where several may be packed into one number, or
    the files are torn."""
    from safetensors import SafetensorError, safe_open

    names = list[str]()
    try:
        for file in Path(folder).glob("*.safetensors"):
            with safe_open(file, "pt") as opened:
                names += opened.keys()
        n_stored = peek_model_bytes(folder) // torch.float32.itemsize
    except (SafetensorError, ModelError):  # the load will say which, and why
        return 0
    return 0 if has_packed_tensors(names) else n_stored


def _is_own(source: str) -> bool:
    """The embedded model's files are saescope's own."""
    return Path(source) == model_dir()


def _check_cached(source: str, fetch: Fetch) -> None:
    """The configurations of a model on the hub, and where its files in the cache lead; what is not
    there, the load will say."""
    from transformers.utils.hub import cached_file

    at = {"revision": fetch.revision} if fetch.revision else {}
    snapshots = set[Path]()
    for name in ("config.json", INDEX, "tokenizer_config.json"):
        try:
            cached = Path(cached_file(source, name, local_files_only=fetch.offline, **at) or "")
        except (OSError, ValueError):
            continue
        snapshots.add(cached.parent)
        if name == INDEX:
            check_names(source, cached.parent, present=False)
        else:
            content = read_json(cached)
            check_counts(content if name == "config.json" else {})
            check_references(source, name, content)
    for snapshot in snapshots:
        for file in snapshot.rglob("*"):
            check_linked(file, snapshot.parent.parent, field="model")  # the blobs lie beside it
