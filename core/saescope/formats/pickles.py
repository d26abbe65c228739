"""PyTorch's .pt files, only where the user allows them: read by a restricted child process, which
writes safetensors for us to read.

python -P -m saescope.formats.pickles IN OUT

is the child: tensors of IN to OUT (safetensors), plain values to its standard output.
"""

import contextlib
import ctypes
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from saescope.cancel import stop_if_cancelled
from saescope.errors import FormatError, cannot_write
from saescope.fence import open_file, read_own, real_path
from saescope.formats.npz import ZIP_ERRORS
from saescope.formats.source import FileSource
from saescope.formats.weights import Weights
from saescope.names import home

SETTING = "SAESCOPE_ALLOW_PICKLE"
ENDINGS = (".pt", ".pth")
MAX_GROWTH = 1.1
"""Tensors may be this much larger than their file."""
SLACK_BYTES = 1 << 20
SPARE_MEMORY = 1 << 30
MAX_LISTED = 1024
"""Integer tensors up to this length are plain values, longer ones are left out: weights are
floating-point numbers."""
SECONDS = 60
SECONDS_PER_GB = 60
"""Seconds of processor time, after the import of torch: a busy machine is not the file's fault."""
PATIENCE = 30
"""Times as long it may take by the clock, in the end."""
YES = ("1", "true", "t", "yes", "y", "on")
_allowed: ContextVar[bool | None] = ContextVar("pickles_allowed", default=None)
_KEPT_ENV = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "HOME",
    "USERPROFILE",
)


class Converted(Weights):
    """What a .pt file held: tensors by dotted name, and the plain values beside them."""

    def __init__(self, file: BinaryIO, name: str, values: Mapping[str, Any]) -> None:
        super().__init__(file, name)
        self.values = values


@contextmanager
def pickles_allowed(allowed: bool) -> Generator[None]:
    """Whether .pt files may be read inside, whatever the environment says."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def is_allowed() -> bool:
    """Whether the user's settings allow .pt files."""
    allowed = _allowed.get()
    return os.environ.get(SETTING, "").lower() in YES if allowed is None else allowed


@contextmanager
def open_pickle(source: FileSource, name: str) -> Generator[Converted]:
    """The tensors of a .pt file, converted once into the cache.

    Raises:
        FormatError: PICKLE_REFUSED unless the settings allow it or it was converted before; or it
            holds more than tensors.
    """
    if not name.endswith(ENDINGS):
        raise _refused(name, "only .pt and .pth files can be converted")
    mark = (
        _folder() / f"{hashlib.sha256(f'{source.repo_id}/{name}'.encode()).hexdigest()[:32]}.known"
    )
    if not is_allowed() and source.repo_id and not mark.is_file():
        raise _refused(name)
    path = source.local(name)
    target = _folder() / f"{_sha256(path)}.safetensors"
    if not _is_whole(target):
        if not is_allowed():
            raise _refused(name)
        _convert(path, target)
    with contextlib.suppress(
        OSError
    ):  # a home that can only be read: the setting is asked for again
        mark.touch()
    with target.open("rb", buffering=0) as file:
        yield Converted(file, name, json.loads(read_own(_sidecar(target)))["values"])


def _folder() -> Path:
    return home() / "converted"


def _sidecar(target: Path) -> Path:
    return target.with_suffix(".json")


def _is_whole(target: Path) -> bool:
    try:
        return json.loads(read_own(_sidecar(target)))["sha256"] == _sha256(target)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(path: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as staging:
            out = Path(staging, "out.safetensors")
            answer = _run_child(path, out)
            if "error" in answer:
                code, why = answer["error"]
                raise _refused(path.name, why, code)
            report = {"sha256": _sha256(out), "values": answer["values"], "from": path.name}
            Path(staging, "out.json").write_text(json.dumps(report), encoding="utf-8")
            os.replace(out, target)
            os.replace(Path(staging, "out.json"), _sidecar(target))
    except OSError as error:
        free = "Free some disk space, or set SAESCOPE_HOME."
        raise cannot_write("The converted file", target.parent, error, hint=free) from error


def _run_child(path: Path, out: Path) -> dict[str, Any]:
    """The child's answer; a child that dies, hangs or says nothing has refused."""
    seconds = _seconds(path.stat().st_size)
    env = {
        name: os.environ[name] for name in _KEPT_ENV if name in os.environ
    }  # no token, and none of torch's own switches
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [
        sys.executable,
        "-P",
        "-m",
        "saescope.formats.pickles",
        # The open file, where a process can be given one: its name may mean another file by then.
        "/dev/stdin" if Path("/dev/stdin").exists() else str(path.absolute()),
        str(out.absolute()),
    ]
    with (
        open_file(path) as given,
        tempfile.TemporaryFile() as answer,
        subprocess.Popen(
            command,
            env=env,
            cwd=out.parent,
            stdin=given,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            close_fds=True,
        ) as child,
    ):
        try:
            deadline = time.monotonic() + PATIENCE * seconds
            while child.poll() is None:
                stop_if_cancelled()
                if time.monotonic() > deadline:
                    waited = f"it was not read within {PATIENCE * seconds:.0f} s"
                    return {"error": ["READ_TIMED_OUT", waited]}
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.05)
        finally:
            child.kill()
        answer.seek(0)
        with contextlib.suppress(ValueError):
            return json.loads(answer.read(1 << 20))
    return {"error": _why_it_died(child.returncode, seconds)}


def _why_it_died(status: int, seconds: float) -> list[str]:
    if status == -getattr(signal, "SIGXCPU", 0):
        return ["FILE_SUSPICIOUS", f"reading it took more than {seconds:.0f} s of processor time"]
    if status == -getattr(signal, "SIGKILL", 0):
        return ["READER_KILLED", "the system killed the process that read it, for memory perhaps"]
    return [
        "FILE_SUSPICIOUS",
        "the process that read it was stopped: it asked for more than the file can need",
    ]


def convert(path: Path, out: Path) -> dict[str, Any]:
    """Write the tensors of `path` to `out`, and return its plain values by dotted name; it runs in
    the child."""
    from safetensors.torch import save_file

    size = path.stat().st_size
    try:
        _check_zip(path, size)
    except ZIP_ERRORS as error:
        raise FormatError("it is torn") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # whatever it is: torch's advice (weights_only=False) must not be passed on
        raise FormatError(
            "it holds more than tensors, or is torn", code="PICKLE_REFUSED"
        ) from error
    tensors, values = dict[str, Tensor](), dict[str, Any]()
    _flatten(content, "", tensors, values)
    if sum(tensor.nbytes for tensor in tensors.values()) > MAX_GROWTH * size + SLACK_BYTES:
        raise FormatError(
            f"its {size} bytes claim to be more weights than that", code="FILE_SUSPICIOUS"
        )
    if not tensors:
        raise FormatError("it holds no weights", code="PICKLE_REFUSED")
    save_file(
        {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        },
        out,
    )
    return values


def _flatten(node: object, name: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            # A number is the layer of a matrix, in the files of Jacobian lenses.
            if type(key) not in (str, int) or len(str(key)) > 200 or name.count(".") > 8:
                raise FormatError("it is no dictionary of named tensors", code="PICKLE_REFUSED")
            _flatten(value, f"{name}.{key}" if name else str(key), tensors, values)
    elif isinstance(node, Tensor):
        if (
            node.layout is not torch.strided
            or node.is_quantized
            or node.is_meta
            or node.is_complex()
        ):
            raise FormatError(f"{name} is no plain tensor", code="UNSUPPORTED_DTYPE")
        if node.is_floating_point():
            tensors[name] = node
        elif node.numel() <= MAX_LISTED:
            values[name] = node.tolist()
    elif _is_plain(node) or (
        type(node) is list and len(node) <= MAX_LISTED and all(map(_is_plain, node))
    ):
        values[name] = node
    else:
        raise FormatError(
            f"{name or 'it'} is a {type(node).__name__}, no tensor", code="PICKLE_REFUSED"
        )


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _check_zip(path: Path, size: int) -> None:
    """Today's .pt is a zip archive that is not compressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > MAX_GROWTH * size + SLACK_BYTES:
                raise FormatError(
                    f"its {size} bytes claim to unpack to {total}", code="FILE_SUSPICIOUS"
                )
            sums = [_sum_fits(archive, entry) for entry in entries if entry.file_size]
        # torch.load compares no checksums, and torch.save can be told to write none.
        if not all(sums) and any(sums):
            raise FormatError("it is torn: a checksum in it does not fit")


def _sum_fits(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(SLACK_BYTES):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _confine(size: int) -> None:
    """Memory, time and file size as the file can need at most, no new process and no network: where
    the system can do that."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        new_network, new_user = 0x40000000, 0x10000000
        _ = libc.unshare(new_network) and libc.unshare(new_user | new_network)
    with contextlib.suppress(ImportError):
        import resource

        for limit, most in _limits(resource, size):
            # One more second, so that it is the signal that says why.
            hard = most + 1 if limit == resource.RLIMIT_CPU else most
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (most, hard))


def _seconds(size: int) -> float:
    return SECONDS + SECONDS_PER_GB * size / 1e9


def _limits(resource: Any, size: int) -> list[tuple[int, int]]:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limits = [
        (resource.RLIMIT_CPU, math.ceil(spent.ru_utime + spent.ru_stime + _seconds(size))),
        (resource.RLIMIT_FSIZE, int(MAX_GROWTH * size) + 4 * SLACK_BYTES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ]
    if sys.platform == "linux":  # what torch itself has mapped by now is known there
        mapped = (
            int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            * resource.getpagesize()
        )
        limits.append((resource.RLIMIT_AS, mapped + 4 * size + SPARE_MEMORY))
    return limits


def main() -> None:
    """Answer on standard output, as JSON: {"values": ...} or {"error": [code, why]}."""
    path, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    _confine(path.stat().st_size)
    try:
        answer: dict[str, Any] = {"values": convert(path, out)}
    except FormatError as error:
        answer = {"error": [error.code, error.message]}
    except Exception as error:
        answer = {"error": ["FILE_CORRUPT", f"reading it failed ({type(error).__name__})"]}
    sys.stdout.write(json.dumps(answer))


def _refused(name: str, why: str = "", code: str = "PICKLE_REFUSED") -> FormatError:
    base = name.rpartition("/")[2]
    if code in ("READ_TIMED_OUT", "READER_KILLED"):
        hint = "Call again when the machine has time and memory to spare."
        return FormatError(f"{base} could not be read: {why}.", code=code, got=base, hint=hint)
    if why:
        return FormatError(
            f"{base} is refused: {why}.",
            code=code,
            got=base,
            hint="Ask its authors for safetensors.",
        )
    return FormatError(
        f"{base} is a pickle: loading it can run code, so saescope does not unless you allow it.",
        code=code,
        got=base,
        hint=f"Convert it once, in a confined process of saescope's own: {SETTING}=1 "
        "saescope load-sae ... (with the same arguments); "
        "after that it loads without.",
    )


def _sha256(path: Path) -> str:
    status = path.stat()
    return _digest(real_path(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    """A load asks for the same file's hash more than once; a changed file has another key."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
