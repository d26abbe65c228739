"""What a server may read and write, by its settings and by where it was started."""

import os
import shutil
import threading
from pathlib import Path

import anyio
import pytest
from mcp import Client
from tests.server.helpers import PROMPT, call

from saescope.errors import ArgumentError, ConfigError
from saescope_mcp.app import build_server
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState, readable, writable

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders and pipes of POSIX")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with what is kept in one."""
    for name in (".ssh/id_rsa", ".config/x", ".cache/y", "desk/sae/cfg.json", "Library/z"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / ".local/share/saescope"))
    monkeypatch.delenv("HF_HOME", raising=False)
    return tmp_path


def may(what: object, path: str | Path, settings: Settings) -> bool:
    try:
        (readable if what == "read" else writable)(str(path), settings, "path")
    except ArgumentError as error:
        assert error.code == "PATH_NOT_ALLOWED"
        return False
    return True


@pytest.mark.parametrize("cwd", ["/", "/etc", "/usr", "/var", "/usr/lib", "~/.config", "~/Library"])
def test_a_server_started_in_a_folder_of_the_system_reads_below_the_home_alone(
    house: Path, cwd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(cwd).expanduser())
    settings = Settings()
    assert settings.read_roots == (house,) and settings.write_roots == ()
    assert may("read", "~/desk/sae", settings) and may("read", house / "desk", settings)
    for path in ("/etc/passwd", "/", "~/.ssh/id_rsa", "~/.config/x", "~/.cache/y", "~/Library/z"):
        assert not may("read", path, settings)
    for path in ("~/desk/new", "~/.ssh/new", "/new", "/tmp/new", "new"):
        assert not may("write", path, settings)
    assert may("write", "~/.local/share/saescope/saes/new", settings)
    for cache in ("~/.cache/huggingface/hub/models--o--n", "~/.local/share/saescope/saes/x"):
        assert may("read", cache, settings)


def test_writing_has_roots_of_its_own(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house / "desk")
    settings = Settings()
    assert may("write", "new", settings) and may("read", "new", settings)
    for path in ("~/new", "../new", ".hidden/new", "~/.ssh/new"):
        assert not may("write", path, settings)
    named = Settings.from_env(
        {"SAESCOPE_READ_ROOTS": f"{house}/desk", "SAESCOPE_WRITE_ROOTS": f"{house}/out"}
    )
    assert may("write", house / "out" / "new", named) and may("read", house / "out" / "new", named)
    assert not may("write", house / "desk" / "new", named)
    hidden = Settings.from_env(
        {"SAESCOPE_READ_ROOTS": "~/.config", "SAESCOPE_WRITE_ROOTS": "~/.config/out"}
    )
    assert may("read", "~/.config/x", hidden) and not may("read", "~/desk/sae", hidden)


@pytest.mark.parametrize("name", ["SAESCOPE_READ_ROOTS", "SAESCOPE_WRITE_ROOTS"])
def test_a_root_that_holds_everything_is_an_error_of_the_setting(house: Path, name: str) -> None:
    (house / "all").symlink_to("/")
    for root in ("/", "/etc", "/home", str(house / "all")):
        with pytest.raises(ConfigError, match=name):
            Settings.from_env({name: root})


@pytest.mark.timeout(120)
async def test_loads_that_do_not_end_keep_no_other_tool_from_answering(
    tiny: AppState, sae: str
) -> None:
    disk = threading.Event()
    async with anyio.create_task_group() as group:
        for _ in range(tiny.settings.threads + 2):
            group.start_soon(tiny.loaders.run, disk.wait)
        try:
            with anyio.fail_after(60):
                assert (await call(tiny, "top_features", sae=sae, text=PROMPT))["features"]
        finally:
            disk.set()


@pytest.mark.timeout(120)
async def test_pipes_in_the_place_of_files_hold_nobody_up(
    tiny: AppState, sae: str, sae_dir: Path, glass_dir: Path, tmp_path: Path
) -> None:
    roots = (*tiny.settings.read_roots, tmp_path)
    state = AppState(tiny.settings.model_copy(update={"read_roots": roots}))
    for name in ("model/config.json", "sae/cfg.json"):
        (tmp_path / name).parent.mkdir()
        os.mkfifo(tmp_path / name)
    shutil.copy(sae_dir / "sae_weights.safetensors", tmp_path / "sae")

    # One client for all: a server that ends lets go of the loads of its state.
    async with Client(build_server(state=state)) as client:

        async def try_one(what: dict[str, str]) -> None:
            result = await client.call_tool("load_sae", what)
            assert result.is_error and result.structured_content
            assert result.structured_content["code"] == "FILE_SUSPICIOUS"

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    model, folder = str(tmp_path / "model"), str(tmp_path / "sae")
                    group.start_soon(try_one, {"path": str(sae_dir), "model": model})
                    group.start_soon(try_one, {"path": folder, "model": str(glass_dir)})
            assert (await call(state, "server_status")) and not state.saes
