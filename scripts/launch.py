# /// script
# requires-python = ">=3.11,<3.15"
# ///
"""Start saescope for a client, from a plain checkout: `uv run --script launch.py`. Needs Python and
uv, nothing installed.

Once saescope is installed, this process becomes its server. Before that, an installation starts in
the background (gigabytes: no client waits that long), and this process speaks MCP itself: it lists
the tools, and a call says how far the installation is and what to run to watch it. When it is done
the real server takes over the same connection; nothing needs to be restarted.
"""

import argparse
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 20.0
"""How long a call waits for the installation to end; clients wait 60 s or more."""
LOOK_S = 0.2
HANDSHAKE = "saescope-launch"
"""Id of our own initialize request; a client's ids are its own business."""
UV_DEFAULTS = {
    "UV_LOCK_TIMEOUT": "3600",
    "UV_HTTP_TIMEOUT": "120",
    # A company's proxy signs with a certificate that the system knows and uv's own list does not.
    "UV_SYSTEM_CERTS": "1",
    "UV_NATIVE_TLS": "1",  # the same for an older uv
}
UNTRUSTED = ("UnknownIssuer", "invalid peer certificate", "CERTIFICATE_VERIFY_FAILED")
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
Message = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where saescope is installed for one client."""

    data: Path | None
    """The client's own folder, which survives updates of the checkout; without one it goes into the
    checkout."""

    @classmethod
    def named(cls, data: str) -> "Place":
        """A client that does not know the variable leaves "${...}" as it is."""
        return cls(Path(data).expanduser().absolute() if data and "${" not in data else None)

    @property
    def venv(self) -> Path:
        return self.data / "venv" if self.data else ROOT / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def stamp(self) -> Path:
        return self.venv / "saescope-ready"

    @property
    def log(self) -> Path:
        return self.venv / "saescope-setup.log"

    @property
    def words(self) -> list[str]:
        return ["--data", str(self.data)] if self.data else []

    def ready(self) -> bool:
        return (
            self.python.exists()
            and self.stamp.exists()
            and self.stamp.read_text(encoding="utf-8") == fingerprint()
        )


def fingerprint() -> str:
    """Changes with the requirements and with the place of the checkout."""
    said = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*said, str(ROOT).encode()])).hexdigest()


def install(place: Place) -> int:
    """Make the environment; returns the status of the step that failed, or 0. Several may run at
    once: uv takes turns."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if not uv:
        sys.stderr.write("uv is missing: https://docs.astral.sh/uv/getting-started/installation\n")
        return 2
    for name, value in UV_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not place.python.exists() and (
        status := run([uv, "venv", "--allow-existing", "--python", sys.executable, str(place.venv)])
    ):
        return status
    command = [
        uv,
        "pip",
        "install",
        "--python",
        str(place.python),
        "-c",
        str(ROOT / "constraints.txt"),
        "-e",
        f"{ROOT}[all]",
    ]
    # torch for the GPU that is here, or the small build for none; where its index cannot be
    # reached, the one of the package index.
    status = (
        run(command)
        if "UV_TORCH_BACKEND" in os.environ
        else run([*command, "--torch-backend", "auto"]) and run(command)
    )
    if not status:
        place.stamp.write_text(fingerprint(), encoding="utf-8")
        say("saescope is ready.")
    return status


def run(command: Sequence[str]) -> int:
    say(f"$ {' '.join(command)}")
    return subprocess.run(command, check=False).returncode


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Listing:
    """The tools that the server will offer, from the list that is shipped with it."""

    tools: list[Message]
    note: str
    """What the server says of those that are switched off."""

    @classmethod
    def read(cls) -> "Listing":
        """What the environment asks for.

        Raises:
            ValueError: it asks for what is not there.
        """
        published: dict[str, Message] = json.loads(
            (ROOT / "server/saescope_mcp/tools.json").read_text(encoding="utf-8")
        )
        rules = runpy.run_path(str(ROOT / "server/saescope_mcp/groups.py"))
        groups = {name: tool["group"] for name, tool in published.items() if tool["group"]}
        said = os.environ.get(rules["SETTING"], "")
        try:
            offer = rules["Offer"].chosen(said, groups)
        except ValueError as error:
            raise ValueError(f"{rules['SETTING']}: {error}") from None
        # No output schema: what a call answers before the installation is done has no structure.
        kept = ("title", "description", "inputSchema", "annotations")
        tools = [
            {"name": name, **{key: tool[key] for key in kept}}
            for name, tool in published.items()
            if offer.lists(name)
        ]
        return cls(tools, offer.note())


@dataclass
class Pending:
    """A call that waits for the installation."""

    line: str
    id: Any
    until: float


@dataclass
class Desk:
    """Speaks for the server while it is being installed, then hands the client over to it."""

    place: Place
    setup: subprocess.Popen[bytes]
    listing: Listing
    started: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)
    initialize: Message | None = None
    initialized: str = ""
    waiting: list[Pending] = field(default_factory=list[Pending])
    server: subprocess.Popen[str] | None = None
    failed: bool = False

    def read(self, client: IO[str]) -> int:
        """Everything that the client says, until it goes; the exit status."""
        threading.Thread(target=self._watch, daemon=True).start()
        for line in client:
            with self.lock:
                if self.server and self.server.stdin:
                    _write(self.server.stdin, line)
                elif line.strip():
                    self._answer(line)
        if not self.server or not self.server.stdin:
            return 0  # the installation goes on: the next start finds it done
        self.server.stdin.close()
        return self.server.wait()

    def _answer(self, line: str) -> None:
        try:
            message: Message = json.loads(line)
        except ValueError:
            return _send(
                {
                    "jsonrpc": "2.0",
                    "id": None,
                    "error": {"code": -32700, "message": "This is no JSON."},
                }
            )
        method, params = message.get("method", ""), message.get("params") or {}
        if method == "initialize":
            self.initialize = message
        elif method == "notifications/initialized":
            self.initialized = line
        elif method == "notifications/cancelled":
            self.waiting = [call for call in self.waiting if call.id != params.get("requestId")]
        if "id" not in message or not method:
            return None
        if method == "tools/call" and not self.failed:
            self.waiting.append(Pending(line, message["id"], time.monotonic() + WAIT_S))
            return None
        found = self._call() if method == "tools/call" else _said(method, params, self.listing)
        error = {"code": -32601, "message": f"{method} is not there before saescope is installed."}
        return _send(
            {
                "jsonrpc": "2.0",
                "id": message["id"],
                **({"result": found} if found is not None else {"error": error}),
            }
        )

    def _call(self) -> Message:
        """No error while it installs: after three of those Hermes gives a server up for a
        minute."""
        return {"content": [{"type": "text", "text": self._progress()}], "isError": self.failed}

    def _progress(self) -> str:
        log = self.place.log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in log if line.strip()] or ["starting"]
        command = subprocess.list2cmdline(
            ["uv", "run", "--script", str(Path(__file__).resolve()), "--setup", *self.place.words]
        )
        if self.failed:
            why = " | ".join(said[-6:])
            step = "run this in a terminal, then reconnect"
            if any(words in line for words in UNTRUSTED for line in said):
                step = (
                    "a proxy signs the connection with a certificate that this system does not "
                    "know: ask who runs it for its file, set SSL_CERT_FILE to that file's path in "
                    f"a terminal, and {step[4:]}"
                )
            return f"SETUP_FAILED: saescope could not be installed: {why}. Next: {step}: {command}"
        seconds = time.monotonic() - self.started
        return (
            "INSTALLING: saescope is being installed, once: torch is 0.2 GB to "
            f"download, with CUDA 2.7 GB. {seconds:.0f} s so far; now: "
            f"{said[-1]}. The tools work as soon as it is done. Next: server_status() "
            f"in a minute; to watch, run in a terminal: {command}"
        )

    def _watch(self) -> None:
        """Answer calls that have waited long enough, until the server can take over."""
        while self.setup.poll() is None:
            time.sleep(LOOK_S)
            self._dismiss(lambda call: call.until <= time.monotonic())
        with self.lock:
            self.failed = self.setup.returncode != 0 or not self._hand_over()
            if self.failed:
                self._dismiss(lambda call: True)

    def _dismiss(self, which: Callable[[Pending], bool]) -> None:
        """Tell those that wait how it stands."""
        with self.lock:
            for call in filter(which, self.waiting):
                _send({"jsonrpc": "2.0", "id": call.id, "result": self._call()})
            self.waiting = [call for call in self.waiting if not which(call)]

    def _hand_over(self) -> bool:
        """Start the server, repeat the client's handshake and its open calls; whether that
        worked."""
        server = subprocess.Popen(
            serve(self.place),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        assert server.stdin and server.stdout
        if self.initialize:
            _write(server.stdin, json.dumps(self.initialize | {"id": HANDSHAKE}) + "\n")
            if (
                not server.stdout.readline()
            ):  # its answer to the handshake, which the client already has
                return False
            _write(server.stdin, self.initialized)
        threading.Thread(target=_pass_on, args=(server.stdout,), daemon=True).start()
        for call in self.waiting:
            _write(server.stdin, call.line)
        self.server, self.waiting = server, []
        for kind in ("tools", "prompts", "resources") if self.initialize else ():
            _send({"jsonrpc": "2.0", "method": f"notifications/{kind}/list_changed"})
        return True


def _said(method: str, params: Message, listing: Listing) -> Message | None:
    """What can be said without the server; None: nothing."""
    if method == "initialize":
        asked = params.get("protocolVersion")
        changing = {kind: {"listChanged": True} for kind in ("tools", "prompts", "resources")}
        instructions = (ROOT / "server/saescope_mcp/instructions.md").read_text(encoding="utf-8")
        version = re.search(
            r'__version__ = "(.+)"',
            (ROOT / "core/saescope/__init__.py").read_text(encoding="utf-8"),
        )
        return {
            "protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
            "capabilities": changing,
            "serverInfo": {
                "name": "sae",
                "title": "saescope",
                "version": version[1] if version else "",
            },
            "instructions": f"{instructions.rstrip()}\n{listing.note}".rstrip(),
        }
    lists: dict[str, Message] = {
        "tools/list": {"tools": listing.tools},
        "ping": {},
        "prompts/list": {"prompts": []},
        "resources/list": {"resources": []},
        "resources/templates/list": {"resourceTemplates": []},
    }
    return lists.get(method)


_stdout = threading.Lock()


def _send(message: Message) -> None:
    with _stdout:
        _write(sys.stdout, json.dumps(message, ensure_ascii=False) + "\n")


def _pass_on(lines: IO[str]) -> None:
    for line in lines:
        with _stdout:
            _write(sys.stdout, line)
    os._exit(0)  # the server has ended; nobody would answer


def _write(stream: IO[str], text: str) -> None:
    stream.write(text)
    stream.flush()


def serve(place: Place) -> list[str]:
    return [str(place.python), "-m", "saescope_mcp"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Start saescope's MCP server, and install it first if need be."
    )
    parser.add_argument("--setup", action="store_true", help="only install, and show how it goes")
    parser.add_argument(
        "--data", default="", help="folder for the installation (default: .venv in the checkout)"
    )
    options = parser.parse_args()
    place = Place.named(options.data)
    if options.setup:
        return install(place)
    if place.ready():
        if os.name != "nt":
            os.execv(serve(place)[0], serve(place))
        return subprocess.call(serve(place))
    try:
        listing = Listing.read()
    except ValueError as error:
        sys.stderr.write(f"saescope: {error}\n")
        return 2
    streams: tuple[Any, ...] = (sys.stdin, sys.stdout)  # of files, which can be set anew
    for stream in streams:
        stream.reconfigure(encoding="utf-8", newline="\n")
    place.log.parent.mkdir(parents=True, exist_ok=True)
    with place.log.open("wb") as log:
        words = [sys.executable, str(Path(__file__).resolve()), "--setup", *place.words]
        setup = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Desk(place, setup, listing).read(sys.stdin)


if __name__ == "__main__":
    sys.exit(main())
