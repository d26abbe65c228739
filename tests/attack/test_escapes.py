"""Ways out of the roots, on a server over stdio: an audit hook and inotify see every file that is
opened, by whichever library."""

import ctypes
import os
import re
import shutil
import struct
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from tests.attack.conftest import Attack
from tests.attack.escapes import CANARY, Escape, Ground, all_escapes
from tests.server.helpers import save_random_sae

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify and /proc are Linux's")

REPOSITORY = Path(__file__).parents[2]
SYSTEM = re.compile(
    r"/(proc/(\d+/(status|stat|statm|maps|cgroup|mounts|mountinfo|task(/\d+(/\w+)?)?|fd)"
    r"|meminfo|cpuinfo|stat|version|filesystems|mounts|sys/.*)"
    r"|sys/(devices|fs/cgroup|bus|class|kernel/mm)(/.*)?|dev/(null|urandom|tty)"
    r"|etc/(localtime|timezone|mime\.types|os-release|lsb-release|debian_version|ld\.so\.cache"
    r"|nsswitch\.conf|ssl/.*|hosts|resolv\.conf|apache2/mime\.types|httpd/.*)"
    r"|usr/(local/)?(lib|lib64|share|etc)(/.*)?|lib(/.*)?)"
)
"""What an interpreter and its libraries look at on their own account."""
OPENED, READ, CHANGED = 0x20, 0x1, 0x2 | 0x40 | 0x80 | 0x100 | 0x200
LONGEST_S, LOAD_S = 60, 45


class Watch:
    """inotify on the folders that nobody may look into: any process, any language."""

    def __init__(self, folders: list[Path]) -> None:
        self._libc = ctypes.CDLL(None)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK)
        self._names: dict[int, Path] = {}
        for folder in folders:
            for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
                mask = OPENED | READ | CHANGED
                number = self._libc.inotify_add_watch(self._handle, os.fsencode(place), mask)
                assert number > 0, f"no watch on {place}"
                self._names[number] = place

    def seen(self, mask: int = OPENED | READ | CHANGED) -> list[str]:
        """What happened since the last look."""
        found, data = list[str](), b""
        with suppress(BlockingIOError):
            while more := os.read(self._handle, 1 << 16):
                data += more
        while data:
            number, what, _, length = struct.unpack("iIII", data[:16])
            name = data[16 : 16 + length].rstrip(b"\0").decode()
            if what & mask:
                found.append(f"{self._names[number] / name} {what & mask:#x}")
            data = data[16 + length :]
        return found

    def close(self) -> None:
        os.close(self._handle)


@dataclass
class Fort:
    """A server, and what it does outside of its folders."""

    ground: Ground
    client: Client
    watch: Watch
    log: Path
    allowed: tuple[Path, ...]
    n_read: int = 0

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if tool == "load_sae":
            arguments = arguments | {"wait_s": LOAD_S}
        with anyio.fail_after(LONGEST_S):
            reply = await self.client.call_tool(tool, arguments)
        assert CANARY not in str(reply.content) + str(reply.structured_content)
        said: dict[str, Any] = reply.structured_content or {}
        return said | {"is_error": reply.is_error}

    def outside(self) -> list[str]:
        """Files that were opened or changed outside, since the last look."""
        with self.log.open(errors="replace") as file:
            file.seek(self.n_read)
            lines, self.n_read = file.read().splitlines(), file.tell()
        seen = [line for line in lines if not self._may(Path(line.partition(" ")[2]))]
        return self.watch.seen() + seen

    def _may(self, place: Path) -> bool:
        below = any(place.is_relative_to(root) for root in self.allowed)
        return below or bool(SYSTEM.fullmatch(str(place)))

    async def _forget(self, sae: str) -> None:
        if sae == self.ground.sae:
            return
        model, mine = sae.partition("/")[0], self.ground.sae.partition("/")[0]
        await self.call("unload", {"handle": sae if model == mine else model})

    async def try_out(self, escape: Escape, number: int) -> None:
        place = self.ground.root / f"{number:04d}"
        arguments = escape.make(self.ground, place)
        self.outside()
        reply = await self.call(escape.tool, arguments)
        assert not (found := self.outside()), f"{found[:5]} {reply}"
        if escape.codes:
            assert reply["is_error"], reply
            assert "*" in escape.codes or reply["code"] in escape.codes, reply
        assert reply.get("code") != "INTERNAL", reply
        if not reply["is_error"] and escape.tool == "load_sae":
            await self._forget(reply["sae"])
        shutil.rmtree(place, ignore_errors=True)


@asynccontextmanager
async def fort(base: Path, *, roots: bool = True, cwd: str = "") -> AsyncGenerator[Fort]:
    """A server with these roots, or as a desktop client starts it."""
    ground = Ground(base)
    ground.fill(save_random_sae(base / "made"))
    own = {"SAESCOPE_HOME": "own", "TMPDIR": "tmp", "HF_HOME": "hf", "HOME": "home"}
    for folder in own.values():
        (base / folder).mkdir(exist_ok=True)
    env = {"PATH": os.environ["PATH"], "SAESCOPE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    env |= {name: str(base / folder) for name, folder in own.items()}
    if roots:
        env |= {
            "SAESCOPE_READ_ROOTS": str(ground.root),
            "SAESCOPE_WRITE_ROOTS": str(ground.root / "out"),
        }
    # As the installed command: Python itself would look for modules in the working folder.
    command = ["-P", "-m", "tests.attack.spy", str(base / "log")]
    env |= {"SAESCOPE_MAX_MODELS": "99", "SAESCOPE_MAX_SAES": "99"}
    env |= {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    server = StdioServerParameters(
        command=sys.executable, args=command, env=env, cwd=cwd or str(base / "home")
    )
    secret = [ground.outside, ground.home / ".ssh", ground.home / ".config"]
    allowed = [ground.root, base / "own", base / "tmp", base / "hf", REPOSITORY]
    allowed += map(Path, (sys.prefix, sys.base_prefix))
    allowed += [] if roots else [ground.home]
    watch = Watch(secret)
    try:
        async with Client(server) as client:
            found = Fort(
                ground, client, watch, base / "log", tuple(path.resolve() for path in allowed)
            )
            good = {"path": str(ground.root / "sae"), "model": str(ground.root / "model")}
            if not roots:
                good = {"path": str(ground.home / "sae"), "model": str(ground.home / "model")}
                for name in ("sae", "model"):
                    shutil.copytree(ground.root / name, ground.home / name)
            loaded = await found.call("load_sae", good)
            assert not loaded["is_error"], loaded
            found.ground = replace(ground, sae=loaded["sae"])
            yield found
    finally:
        watch.close()


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("escapes").resolve()


ESCAPES = all_escapes()
PARTS = 6


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_selection_of_escapes_is_refused(base: Path, attack: Attack) -> None:
    async with fort(base) as server:
        for number, escape in enumerate(ESCAPES):
            if escape.quick:
                with attack.case(escape.name):
                    await server.try_out(escape, number)


@pytest.mark.attack
@pytest.mark.parametrize("part", range(PARTS))
async def test_no_escape_opens_a_file_outside(part: int, base: Path, attack: Attack) -> None:
    async with fort(base) as server:
        for number, escape in list(enumerate(ESCAPES))[part::PARTS]:
            with attack.case(escape.name):
                await server.try_out(escape, number)
        with attack.case("the server still works"):
            good = {
                "path": str(server.ground.root / "sae"),
                "model": str(server.ground.root / "model"),
            }
            assert not (await server.call("load_sae", good))["is_error"]


DESKTOP = {
    **{
        f"path={place}": ("load_sae", {"path": place})
        for place in ("/etc", "~/.ssh/sae", "~/.config/sae")
    },
    "path outside the home": ("load_sae", {"path": "{base}/{top}/sae"}),
    "model outside the home": ("load_sae", {"path": "{home}/sae", "model": "{base}/{top}/model"}),
    "model among keys": ("load_sae", {"path": "{home}/sae", "model": "~/.ssh/model"}),
    **{
        f"dataset={place}": ("evaluate_sae", {"sae": "{sae}", "dataset": place})
        for place in (
            "/etc/passwd",
            "/etc",
            "/",
            "~/.ssh/data.txt",
            "~/.config",
            "{base}/{top}/data.txt",
        )
    },
    **{
        f"publish to {place}": ("publish_sae", {"sae": "{sae}", "path": place, "dry_run": False})
        for place in ("~/new", "~/.ssh/new", "/new", "/etc/new", "new", "{base}/{top}/out/new")
    },
}


@pytest.mark.attack
@pytest.mark.parametrize("cwd", ["/", "/etc", "/usr", "/var"])
async def test_a_server_of_a_desktop_client_reads_the_home_alone(
    cwd: str, base: Path, attack: Attack
) -> None:
    async with fort(base, roots=False, cwd=cwd) as server:
        ground = server.ground
        for name, (tool, arguments) in DESKTOP.items():
            with attack.case(f"{cwd}: {name}"):
                said = {
                    key: value.format(base=base, top="root", home=ground.home, sae=ground.sae)
                    if isinstance(value, str)
                    else value
                    for key, value in arguments.items()
                }
                server.outside()
                reply = await server.call(tool, said)
                assert reply["is_error"] and reply["code"] == "PATH_NOT_ALLOWED", reply
                assert not (found := server.outside()), found[:5]


@contextmanager
def exchanging(good: Path, bad: Path) -> Generator[None]:
    """While the block runs, the name of a good file or folder leads to a bad one every other
    moment."""
    stop, aside, link = threading.Event(), good.with_name("aside"), good.with_name("link")

    def exchange() -> None:
        while not stop.is_set():
            link.symlink_to(bad)
            good.rename(aside)
            link.rename(good)
            good.unlink()
            aside.rename(good)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.attack
@pytest.mark.parametrize(
    "what", ["sae/cfg.json", "sae/sae_weights.safetensors", "sae", "model/config.json", "model"]
)
async def test_what_is_exchanged_while_it_is_opened_is_never_read(
    what: str, base: Path, attack: Attack
) -> None:
    """A folder may be entered before its file is refused by its descriptor: it is reading that must
    not happen."""
    async with fort(base) as server:
        root, outside = server.ground.root, server.ground.outside
        with exchanging(root / what, outside / what):
            for number in range(40):
                with attack.case(f"{what} {number}"):
                    server.watch.seen()
                    call = {"path": str(root / "sae"), "model": str(root / "model")}
                    reply = await server.call("load_sae", call)
                    files = [line for line in server.watch.seen(READ | CHANGED) if "." in line]
                    assert not files, f"{files} {reply}"
                    assert reply.get("code") != "INTERNAL", reply
                    if not reply["is_error"]:
                        await server.call("unload", {"handle": reply["sae"].partition("/")[0]})


TEXTS: dict[str, tuple[str, str, str]] = {
    "a dataset": ("evaluate_sae", "dataset", "data.txt"),
    "a folder of texts": ("evaluate_sae", "dataset", "texts"),
    "a file in a folder of texts": ("evaluate_sae", "dataset", "texts/data.jsonl"),
    "texts_file": ("top_features", "texts_file", "data.jsonl"),
}
"""Tool, argument, and what is exchanged."""


@pytest.mark.attack
@pytest.mark.parametrize("what", TEXTS)
async def test_texts_that_are_exchanged_while_they_are_opened_are_never_read(
    what: str, base: Path, attack: Attack
) -> None:
    tool, argument, name = TEXTS[what]
    async with fort(base) as server:
        ground = server.ground
        for folder in (ground.root, ground.outside):
            (folder / "texts").mkdir()
            shutil.copy(folder / "data.jsonl", folder / "texts")
        given = {"dataset": str(ground.root / name.partition("/")[0]), "n_tokens": 100}
        if argument == "texts_file":
            given = {"texts_file": str(ground.root / name), "texts_column": "text"}
        with exchanging(ground.root / name, ground.outside / name):
            for number in range(40):
                with attack.case(f"{what} {number}"):
                    server.watch.seen()
                    reply = await server.call(tool, {"sae": ground.sae, **given})
                    files = [line for line in server.watch.seen(READ | CHANGED) if "." in line]
                    assert not files, f"{files} {reply}"
                    assert reply.get("code") != "INTERNAL", reply


def fill_cache(cache: Path, model: Path, *, lead_out: str = "", to: Path = Path()) -> None:
    """A model as the hub's cache keeps it: blobs, and links to them; one of them may lead
    elsewhere."""
    snapshot = cache / "snapshots" / COMMIT
    for folder in (cache / "blobs", cache / "refs", snapshot):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, cache / "blobs" / str(number))
        away = os.path.relpath(to / file.name, snapshot)
        here = f"../../blobs/{number}"
        (snapshot / file.name).symlink_to(away if file.name == lead_out else here)


COMMIT = "0" * 40


@pytest.mark.attack
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_a_link_of_the_hubs_cache_that_leads_out_of_it_is_refused(
    file: str, base: Path, attack: Attack
) -> None:
    async with fort(base) as server:
        ground, hub = server.ground, base / "hf" / "hub"
        cache = hub / "models--owner--tiny"
        fill_cache(cache, ground.root / "model", lead_out=file, to=ground.outside / "model")
        for model in ("owner/tiny", str(cache / "snapshots" / COMMIT)):
            with attack.case(f"{model}: {file}"):
                server.outside()
                call = {"path": str(ground.root / "sae"), "model": model}
                reply = await server.call("load_sae", call)
                assert not (found := server.outside()), f"{found[:5]} {reply}"
                assert reply["is_error"] and reply["code"] != "INTERNAL", reply


@pytest.mark.attack
async def test_the_layout_of_the_hubs_cache_loads_by_name_and_by_path(
    base: Path, attack: Attack
) -> None:
    async with fort(base) as server:
        cache = base / "hf" / "hub" / "models--owner--tiny"
        fill_cache(cache, server.ground.root / "model")
        for model in ("owner/tiny", str(cache / "snapshots" / COMMIT)):
            with attack.case(model):
                call = {"path": str(server.ground.root / "sae"), "model": model}
                reply = await server.call("load_sae", call)
                assert not reply["is_error"], reply
                assert not (found := server.outside()), found[:5]
