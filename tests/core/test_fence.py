import os
import socket
import threading
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest

from saescope import fence
from saescope.errors import FormatError, SaescopeError
from saescope.fence import Fence, fenced, is_system_folder, open_file, read_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links of POSIX")


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A root, beside it a secret."""
    (tmp_path / "secret.json").write_text('{"token": "hf_secret"}')
    root = tmp_path / "root"
    root.mkdir()
    return root


def code_of(path: Path, *roots: Path, limit: int | None = None) -> str:
    with fenced(Fence.around(roots)) if roots else fenced(None):
        try:
            open_file(path, limit=limit).close()
        except SaescopeError as error:
            return error.code
    return ""


def test_a_fence_that_is_asked_for_is_asked_once_and_only_when_a_file_is_opened(
    inside: Path,
) -> None:
    (inside / "file").write_text("x")
    asked: list[Path] = []

    def ask() -> Fence:
        asked.append(inside)
        return Fence.around([inside])

    with fenced(ask):
        assert not asked
        for _ in range(2):
            assert read_file(inside / "file") == b"x"
        with pytest.raises(SaescopeError) as caught:
            read_file(inside.parent / "secret.json")
    assert (caught.value.code, asked) == ("PATH_NOT_ALLOWED", [inside])


@pytest.mark.timeout(10)
def test_only_a_regular_file_is_opened_and_nothing_blocks(inside: Path) -> None:
    os.mkfifo(inside / "pipe")
    (inside / "zero").symlink_to("/dev/zero")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "folder").mkdir()
    (inside / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inside / "socket"))
        found = {name: code_of(inside / name) for name in os.listdir(inside)}
    assert found == {
        "pipe": "FILE_SUSPICIOUS",
        "zero": "FILE_SUSPICIOUS",
        "folder": "FILE_SUSPICIOUS",
        "socket": "FILE_READ_ERROR",
        "loop": "FILE_READ_ERROR",
        "file": "",
    }


@pytest.mark.timeout(10)
def test_what_the_system_makes_up_is_no_file_where_there_is_no_fence(tmp_path: Path) -> None:
    places = ("/dev/stdin", "/dev/fd/0", "/dev/null", "/proc/self/environ", "/proc/self/mem")
    there = [place for place in places if os.path.exists(place)]
    read, write = os.pipe()
    try:
        for i, place in enumerate([*there, f"/dev/fd/{read}"]):
            link = tmp_path / f"{i}.pt"
            link.symlink_to(place)
            for path in (Path(place), link):
                with pytest.raises(FormatError) as caught:
                    open_file(path)
                assert caught.value.code == "FILE_SUSPICIOUS", path
    finally:
        os.close(read)
        os.close(write)


def test_a_file_is_at_most_as_large_as_its_kind(inside: Path) -> None:
    with (inside / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    assert code_of(inside / "config.json", limit=1 << 20) == "FILE_SUSPICIOUS"
    (inside / "small").write_bytes(bytes(10))
    assert code_of(inside / "small", limit=10) == ""
    assert code_of(inside / "small", limit=9) == "FILE_SUSPICIOUS"


def test_a_link_is_followed_only_to_where_files_may_be_read(inside: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    (inside / "to_other").symlink_to(other / "file")
    (inside / "out").symlink_to(tmp_path / "secret.json")
    (inside / "up").symlink_to("..")
    assert code_of(inside / "to_other", inside) == "PATH_NOT_ALLOWED"
    assert code_of(inside / "to_other", inside, other) == ""
    for path in (inside / "out", inside / "up" / "secret.json", inside / ".." / "secret.json"):
        assert code_of(path, inside) == "PATH_NOT_ALLOWED"
        assert code_of(path) == ""  # a person without a fence


def test_what_is_hidden_below_a_root_is_out_unless_it_is_a_root(inside: Path) -> None:
    for name in (".ssh/id_rsa", "project/.env", "project/.git/config", ".cache/hub/blob"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text("x")
        assert code_of(inside / name, inside) == "PATH_NOT_ALLOWED"
    assert code_of(inside / ".cache/hub/blob", inside, inside / ".cache/hub") == ""


def test_what_programs_keep_for_themselves_is_out(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(inside))
    for name in ("AppData/Local/Login Data", "Library/Keychains/login"):
        (inside / name).parent.mkdir(parents=True)
        (inside / name).write_text("x")
        assert code_of(inside / name, inside) == "PATH_NOT_ALLOWED"
        assert code_of(inside / name, (inside / name).parent) == ""


def test_a_path_that_is_exchanged_after_the_look_gains_nothing(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "good").mkdir()
    (inside / "good" / "secret.json").write_text("{}")
    looked = fence.resolve

    def look_then_exchange(path: str | Path) -> Path:
        place = looked(path)
        if Path(path).name == "secret.json" and not (inside / "good").is_symlink():
            (inside / "good").rename(inside / "old")
            (inside / "good").symlink_to(tmp_path)
        return place

    monkeypatch.setattr(fence, "resolve", look_then_exchange)
    assert code_of(inside / "good" / "secret.json", inside) == "PATH_NOT_ALLOWED"


def test_a_file_that_grows_while_it_is_read_is_refused(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "file").write_bytes(bytes(11))
    monkeypatch.setattr(fence, "_check", lambda *_: None)
    with pytest.raises(SaescopeError, match="at most 10"):
        read_file(inside / "file", limit=10)


@pytest.mark.parametrize(
    "folder",
    [
        *map(PurePosixPath, ("/", "/etc", "/etc/ssl", "/usr", "/usr/bin", "/proc", "/proc/1")),
        *map(PurePosixPath, ("/home", "/Users", "/var", "/dev", "/sys", "/run/secrets", "/boot")),
        *map(
            PureWindowsPath, ("C:\\", "D:\\", "C:\\Windows", "c:\\windows\\system32", "C:\\Users")
        ),
        *map(PureWindowsPath, ("C:\\Program Files\\x", "C:\\ProgramData", "\\\\server\\share\\")),
    ],
)
def test_a_system_folder_is_no_root(folder: PurePath) -> None:
    assert is_system_folder(folder)


@pytest.mark.parametrize(
    "folder",
    [
        *map(
            PurePosixPath,
            ("/home/someone", "/Users/someone", "/data", "/tmp/x", "/usr/src/app", "/root"),
        ),
        *map(PureWindowsPath, ("C:\\Users\\me", "D:\\data", "\\\\server\\share\\me")),
    ],
)
def test_a_folder_of_ones_own_may_be_a_root(folder: PurePath) -> None:
    assert not is_system_folder(folder)


def test_roots_that_are_system_folders_are_dropped_also_behind_a_link(inside: Path) -> None:
    (inside / "everything").symlink_to("/")
    assert Fence.around([Path("/"), Path("/etc"), inside / "everything"]).roots == ()


def test_a_path_is_followed_while_its_links_are_exchanged(inside: Path) -> None:
    """`os.path.realpath` raises where a link is none any more when it is read."""
    name, link, stop = inside / "data.txt", inside / "link", threading.Event()
    name.write_text("x")

    def exchange() -> None:
        while not stop.is_set():
            link.symlink_to(inside.parent / "secret.json")
            link.replace(name)
            link.write_text("x")
            link.replace(name)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        found = {fence.real_path(name) for _ in range(5000)}
    finally:
        stop.set()
        thread.join()
    assert found <= {name, inside.parent / "secret.json"}
