"""`saescope warm`: a command's work done by the process that has the model in memory gives what the
command's own gives."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saescope.names import home
from saescope_mcp.cli.calls import call
from saescope_mcp.cli.keeping import TOOLS
from saescope_mcp.cli.warm import SOCKET, CommandCall, likeness, work_of_another

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.name == "nt", reason="Windows has no Unix sockets for Python"),
]
COMMAND = [sys.executable, "-m", "saescope_mcp.cli"]
TEXT = "The king saw the sea and was very sad."


@pytest.fixture
def source(sae_dir: Path, glass_dir: Path) -> list[str]:
    return ["--path", str(sae_dir), "--model", str(glass_dir)]


@pytest.fixture
def kept(
    source: list[str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    # The command line sets it, and this process is to be like one of its commands.
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with subprocess.Popen(
        [*COMMAND, "warm", *source], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "is in memory" in line:
                break
        else:
            raise AssertionError("it did not load")
        yield process
        process.kill()


def run(*words: str, folder: Path | None = None, **environ: str) -> tuple[Any, str]:
    """The document that a command prints, and what it says."""
    done = subprocess.run(
        [*COMMAND, *words, "--json"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environ,
        check=False,
    )
    return json.loads(done.stdout), done.stderr


ENCODE = ["encode-text", "--text", TEXT]
CALLS: list[tuple[list[str], str, dict[str, Any]]] = [
    (ENCODE, "encode_text", {"text": TEXT}),
    (
        ["attribute-logit", "--prompt", TEXT, "--k", "2", "--n-controls", "2"],
        "attribute_logit",
        {"prompt": TEXT, "k": 2, "n_controls": 2},
    ),
    (
        ["intervene", "--prompt", TEXT, "--edit", "100000=2"],
        "intervene",
        {"prompt": TEXT, "edits": [{"feature": 100000, "mode": "add", "strength": 2.0}]},
    ),
]


def test_what_it_answers_is_what_the_command_answers_by_itself(
    kept: subprocess.Popen[str], source: list[str], tmp_path: Path
) -> None:
    where = {"path": source[1], "model": source[3]}
    for words, tool, arguments in CALLS:
        warm, said = run(*words, *source)
        assert "loading" not in said
        assert warm == call(TOOLS[tool], arguments, where, lambda message: None).document
    (tmp_path / "texts.txt").write_text(f"{TEXT}\nA dog ran home.\n", encoding="utf-8")
    there, said = run("top-features", "--texts-file", "texts.txt", *source, folder=tmp_path)
    assert there["summary"] and "loading" not in said
    assert not (home() / "ledger").stat().st_mode & 0o077
    assert (home() / SOCKET).stat().st_mode & 0o777 == 0o600
    kept.send_signal(signal.SIGINT)
    assert kept.wait(timeout=10) == 0 and not (home() / SOCKET).exists()


def test_the_work_of_a_command_that_is_gone_ends(
    kept: subprocess.Popen[str], source: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"path": source[1], "model": source[3]}
    steer = {"prompt": TEXT, "features": [{"feature": 3}], "n_controls": 19, "max_new_tokens": 100}
    line = {"like": likeness(), "folder": str(Path.cwd()), "tool": "steer_generate"}
    line |= {"arguments": steer, "loading": where}
    asked = CommandCall("encode_text", {"text": TEXT}, where)
    assert work_of_another(asked, print) is not None
    said = list[str]()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert work_of_another(asked, said.append) is None and "other code or settings" in said[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(str(home() / SOCKET))
        gone.sendall(json.dumps(line).encode() + b"\n")
        began = time.monotonic()
        while work_of_another(asked, print) is not None:  # until it is busy with the other
            assert time.monotonic() - began < 5, "it was done before the command could go"
    began = time.monotonic()
    while work_of_another(asked, print) is None:
        assert time.monotonic() - began < 30, "it is still at work for a command that is gone"
        time.sleep(0.05)


def test_nothing_that_is_sent_ends_it(kept: subprocess.Popen[str], source: list[str]) -> None:
    for sent in (
        b"\n",
        b"[]\n",
        b'{"like": 1}\n',
        b"\xff\n",
        b'{"like": ' + b"[" * 100_000 + b"\n",
    ):
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(str(home() / SOCKET))
            there.sendall(sent)
            there.shutdown(socket.SHUT_WR)
            assert b"document" not in there.recv(1000)
    _, said = run(*ENCODE, *source)
    assert "loading" not in said


def test_where_nothing_listens_any_more_a_command_works_by_itself(
    kept: subprocess.Popen[str], source: list[str]
) -> None:
    kept.kill()
    kept.wait()
    assert (home() / SOCKET).exists()
    assert work_of_another(CommandCall("encode_text", {"text": TEXT}, {}), print) is None
    found, said = run(*ENCODE, *source)
    assert found["summary"] and "loading" in said


def test_other_code_or_settings_are_not_alike() -> None:
    assert likeness() == likeness()
    assert likeness(os.environ | {"SAESCOPE_MAX_TOKENS": "7"}) != likeness()


def test_what_a_command_needs_to_ask_and_to_show_is_imported_in_no_time() -> None:
    code = (
        "import sys, saescope_mcp.cli.commands, saescope_mcp.cli.show;"
        "print({'mcp', 'pydantic', 'torch', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
