"""Checkpoints that are complete or not there: written aside, synced, hashed, renamed; read only if
every byte is as written.

    <folder>/ckpt-00001200/  sae.safetensors optim.safetensors ... state.json MANIFEST.json

Of ranks that work together each writes what it holds, into shard-00001-... and so on. Whatever was
written, by however many, is read by any number of them.

No pickle. A kill at any moment leaves the older checkpoints and at most one `.tmp-` folder, which
the next run removes.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from saescope.errors import (
    FormatError,
    NotFoundError,
    ResourceError,
    cannot_write,
    disk_is_full,
    free_space,
)
from saescope.fence import open_own, read_own
from saescope.ranks import ALONE
from saescope.sharding import FILES, Cut, own_files, read, write

FIRST_S = 60.0
"""Seconds after which a run has its first checkpoint, however long the interval is."""
PREFIX, ASIDE = "ckpt-", ".tmp-"
STATE_FILE, MANIFEST_FILE = "state.json", "MANIFEST.json"
FORMAT = 1
WHOLE = Cut(ALONE, lambda name: False)
_SPARE_BYTES = 1 << 20
WITHIN = ":"
_Files = dict[str, dict[str, Any]]


class Schedule:
    """Decides when the next checkpoint is due: the first after a minute, then after twice as long
    each time, up to the interval."""

    def __init__(self, every_s: float) -> None:
        self.every_s, self.wait_s = every_s, min(FIRST_S, every_s)
        self.saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.wait_s

    def saved(self) -> None:
        self.saved_at, self.wait_s = time.monotonic(), min(2 * self.wait_s, self.every_s)


def flat(file: str, name: str) -> str:
    """The name of a tensor of a file where all ranks write together, and for `Cut`."""
    return f"{file}{WITHIN}{name}"


class Checkpoint(NamedTuple):
    """What a run was saved as: tensors, plain values and files."""

    tensors: dict[str, dict[str, Tensor]]
    """The tensors, by file (without its suffix) and then by name."""
    state: dict[str, Any]


def save(folder: Path, step: int, checkpoint: Checkpoint, *, keep: int, cut: Cut = WHOLE) -> Path:
    """Write one checkpoint and drop all but the newest `keep`; all ranks call this together.

    Raises:
        ResourceError: the disk is full (DISK_FULL) or not writable; earlier checkpoints are
            untouched.
    """
    final, aside = folder / f"{PREFIX}{step:08d}", folder / f"{ASIDE}{PREFIX}{step:08d}"
    if cut.ranks.first(cut.ranks.writes and final.exists() and not damage(final)):
        return final  # a run that stopped right after it was resumed
    with _disk_errors(folder, aside):
        if cut.ranks.writes:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            _require_space(folder, checkpoint)
            aside.mkdir()
            (aside / STATE_FILE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
        cut.ranks.wait()
        files = _write_tensors(aside, checkpoint.tensors, cut)
        if cut.ranks.writes:
            files |= _listed([aside / STATE_FILE])
            _finish(aside, final, {"format": FORMAT, "step": step, "files": files})
            for old in _all(folder)[:-keep]:
                _remove(old)
        cut.ranks.wait()
    return final


def _write_tensors(aside: Path, tensors: Mapping[str, dict[str, Tensor]], cut: Cut) -> _Files:
    """The files that now hold the tensors, of all ranks."""
    if not cut.ranks.alone:
        own = {flat(file, key): _own(x) for file in tensors for key, x in tensors[file].items()}
        write(aside, own, cut)
        listed = cut.ranks.each(_listed(own_files(aside, cut.ranks)))
        return {name: entry for each in listed for name, entry in each.items()}
    for file, named in tensors.items():
        copies = {key: _own(x) for key, x in named.items()}
        save_file(copies, aside / f"{file}.safetensors")
    return _listed(aside.glob("*.safetensors"))


def _listed(paths: Iterable[Path]) -> _Files:
    """The manifest's lines for some files, which are on the disk by then."""
    files: _Files = {}
    for path in sorted(paths):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        _sync(path)
    return files


def _finish(aside: Path, final: Path, manifest: dict[str, Any]) -> None:
    (aside / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (aside / MANIFEST_FILE, aside):
        _sync(path)
    if final.exists():
        _remove(final)
    aside.rename(final)
    _sync(final.parent)


def require_writable(folder: Path) -> None:
    """Raises ResourceError where nothing can be written below a folder: said before the work, not
    after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(2**12))
    except OSError as error:
        raise cannot_write(
            "The results",
            folder,
            error,
            hint="Free space on that disk or make the folder writable, or set SAESCOPE_HOME "
            "to another one.",
        ) from error


def latest(folder: Path, *, up_to: int | None = None) -> Path | None:
    """The newest checkpoint that verifies, of at most the step `up_to`; None if there is none."""
    within = [path for path in _all(folder) if up_to is None or step_of(path) <= up_to]
    return next((path for path in reversed(within) if not damage(path)), None)


def step_of(path: Path) -> int:
    """The step that a checkpoint is of."""
    number = path.name.removeprefix(PREFIX)
    return int(number) if number.isdecimal() else 0


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, in words; empty if every file is as it was written."""
    try:
        manifest = json.loads(read_own(path / MANIFEST_FILE))
        files: dict[str, dict[str, Any]] = manifest["files"]
        for name, entry in files.items():
            if (path / name).stat().st_size != entry["bytes"] or _sha256(path / name) != entry[
                "sha256"
            ]:
                return f"{name} is not as it was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return "" if STATE_FILE in files else "it has no state"


def load(path: Path, *, cut: Cut = WHOLE) -> Checkpoint:
    """Read a checkpoint: each rank what it will hold.

    Raises:
        FormatError: it is damaged.
    """
    wrong = cut.ranks.first(damage(path) if cut.ranks.writes else "")
    if wrong:
        raise FormatError(
            f"Checkpoint {path.name} is damaged: {wrong}.",
            code="HASH_MISMATCH",
            hint="Resume from an older checkpoint.",
        )
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    if any(path.glob(FILES)):
        tensors = defaultdict[str, dict[str, Tensor]](dict)
        for name, x in read(path, cut).items():
            file, _, key = name.partition(WITHIN)
            tensors[file][key] = x
        return Checkpoint(dict(tensors), state)
    whole = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
    for file, named in whole.items():
        named |= {key: cut.own(flat(file, key), x) for key, x in named.items()}
    return Checkpoint(whole, state)


def load_latest(folder: Path, *, cut: Cut = WHOLE) -> Checkpoint:
    """Read the newest good checkpoint.

    Raises:
        NotFoundError: there is none.
    """
    path = cut.ranks.first(latest(folder) if cut.ranks.writes else None)
    if path is None:
        raise NotFoundError(
            f"No complete checkpoint in {folder.name}.",
            code="NO_CHECKPOINT",
            hint="Start the run again without resume.",
        )
    return load(path, cut=cut)


def clean(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(path, ignore_errors=True)


def split_state(
    state: Mapping[str, Any], prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Nested state as tensors by dotted name, and the rest as what JSON can hold."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, Mapping):
            inner, plain[name] = split_state(value, f"{prefix}{name}.")
            tensors |= inner
        else:
            plain[name] = value
    return tensors, plain


def join_state(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Join what `split_state` took apart."""
    state: dict[str, Any] = {
        name: join_state({}, value) if isinstance(value, Mapping) else value
        for name, value in plain.items()
    }
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = state
        for part in path:
            place = place.setdefault(part, {})
        place[last] = tensor
    return state


def _remove(path: Path) -> None:
    """Out of sight first: a kill in the middle must not leave a checkpoint with files missing."""
    aside = path.with_name(f"{ASIDE}old-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        path.rename(aside)
        shutil.rmtree(aside)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU: two names may share memory, a file must not."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _sha256(path: Path) -> str:
    with open_own(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows has no handle to sync a folder with
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_space(folder: Path, checkpoint: Checkpoint) -> None:
    need = (
        sum(tensor.nbytes for tensors in checkpoint.tensors.values() for tensor in tensors.values())
        + _SPARE_BYTES
    )
    free = shutil.disk_usage(folder).free
    if free < need:
        raise _full(folder, f"{need} bytes needed, {free} free")


@contextmanager
def _disk_errors(folder: Path, aside: Path) -> Generator[None]:
    """Whatever goes wrong, nothing half-written stays and the error says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if disk_is_full(error):
            raise _full(folder, str(error)) from error
        raise ResourceError(
            f"The checkpoint could not be written to {folder}: {error} ({free_space(folder)}).",
            code="CHECKPOINT_NOT_WRITTEN",
            hint="Choose a folder that can be written to.",
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _full(folder: Path, why: str) -> ResourceError:
    return ResourceError(
        f"The disk is full: the checkpoint could not be written to {folder}: {why} "
        f"({free_space(folder)}). "
        "Earlier checkpoints there are untouched.",
        code="DISK_FULL",
        field="checkpoint",
        hint="Free space on that disk, then resume the run.",
    )
