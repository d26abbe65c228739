"""Every tool call and every command in the documents is one that works: `make test` reads it as the
tool or the command line does, the slow tier runs it on the embedded model, or as its marker says.
"""

import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.docs.desk import Desk
from tests.docs.pages import DOCUMENTS, ROOT, Piece, arguments_of, pieces
from typer.testing import CliRunner

from saescope import catalogue
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Outcome, Tool
from saescope_mcp.cli import commands
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.schemas.train import TrainSae
from saescope_mcp.settings import Settings

TOOLS = {tool.name: tool for tool in ALL_TOOLS}
PIECES = [piece for document in DOCUMENTS for piece in pieces(document)]
CALLS = [piece for piece in PIECES if piece.kind == "call" and piece.check != "theirs"]
RUN = [*{(each.code, each.check): each for each in CALLS if each.check != "schema"}.values()]
"""A call that several documents have runs once."""
COMMANDS = [piece for piece in PIECES if piece.kind == "command"]
OURS = ("saescope", ".venv/bin/saescope", ".venv\\Scripts\\saescope")
OTHERS = {
    "claude",
    "codex",
    "gemini",
    "hermes",
    "cp",
    "git",
    "make",
    "py",
    "python",
    "python3",
    "pip",
    "uv",
    "cd",
    "/plugin",
    "export",
}


@pytest.mark.parametrize("piece", CALLS, ids=str)
def test_a_call_is_one_that_the_tool_takes(piece: Piece) -> None:
    tool, arguments = arguments_of(piece.code)
    assert tool in TOOLS, f"there is no tool {tool}"
    if not piece.check.startswith("refused "):
        look_up_release(arguments)
        validate(TOOLS[tool], arguments)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(600)
@pytest.mark.parametrize("piece", RUN, ids=str)
def test_a_call_does_what_the_document_says(piece: Piece, desk: Desk) -> None:
    """The call as it is written, but that what takes minutes has less text and fewer tokens."""
    tool, arguments = arguments_of(piece.code)
    answer = desk.call(tool, arguments)
    while answer.is_error and answer.document["code"] == "BUSY":  # an evaluation is still at work
        time.sleep(2)
        answer = desk.call(tool, arguments)
    if piece.check.startswith("refused "):
        assert answer.is_error and answer.document["code"] == piece.check.removeprefix(
            "refused "
        ), answer
        return
    assert piece.check == "run", f"unknown marker {piece.check!r}"
    assert not answer.is_error, answer.document
    assert answer.document["summary"]


def validate(tool: Tool, arguments: Mapping[str, Any]) -> None:
    """The arguments are such as the tool takes; those of a training go together."""
    request = tool.request.model_validate(dict(arguments), context={"settings": Settings()})
    if isinstance(request, TrainSae) and not request.resume:
        from saescope.training import TrainConfig, parse_options
        from saescope.training.sets import read_sweep

        said: dict[str, Any] = {
            field.name: getattr(request, field.name)
            for field in fields(TrainConfig)
            if hasattr(request, field.name)
        }
        widths: dict[str, Any] = {
            "d_in": 576,
            "d_sae": request.d_sae or 4608,
            "context_size": request.context_size or 256,
        }
        options, sweep = read_sweep(request.options)
        plain = said | widths | parse_options(options)
        TrainConfig(**plain)
        for name, values in sweep.items():
            for value in values:
                one: dict[str, Any] = plain | {name: int(value)}
                TrainConfig(**one)


def look_up_release(arguments: Mapping[str, Any]) -> None:
    """A published release that a document names is in the catalogue, and the SAE in it."""
    release = arguments.get("release", "")
    if release and "/" not in release:
        catalogue.get(release, arguments.get("sae_id", ""))


@pytest.mark.parametrize("piece", COMMANDS, ids=str)
def test_a_command_is_one_that_a_reader_has(piece: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands_of(piece):
        if words[0] in OURS:
            run_ours(piece, words[1:], None, monkeypatch)
        else:
            look_up_words(words, piece)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("piece", [each for each in COMMANDS if each.check != "schema"], ids=str)
def test_a_command_does_what_the_document_says(
    piece: Piece, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in commands_of(piece):
        if words[0] in OURS:
            run_ours(piece, words[1:], desk, monkeypatch)


def commands_of(piece: Piece) -> Iterator[list[str]]:
    """The words of each command of a line, without the variables that stand before it."""
    for command in piece.code.split(" && "):
        words = shlex.split(command, posix="\\" not in command)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            assert words.pop(0).split("=")[0] in known_variables()
        yield words


def known_variables() -> set[str]:
    return {"SAESCOPE_" + name.upper() for name in Settings.model_fields} | {
        "SAESCOPE_HOME",
        "HF_HOME",
        "HF_TOKEN",
        "UV_TORCH_BACKEND",
    }


def run_ours(
    piece: Piece, words: list[str], desk: Desk | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our command line reads the words; what it would then do in a process of its own is done at
    the desk, if there is one."""
    ran: list[str] = []

    def call(
        tool: Tool, arguments: dict[str, Any], loading: Mapping[str, Any], say: object
    ) -> Outcome:
        given = {**arguments, **loading}
        look_up_release(given)
        ran.append(tool.name)
        if desk is None or piece.check == "schema":
            source = {name: given.pop(name) for name in loading}
            validate(TOOLS["load_sae"], source)
            validate(tool, {"sae": "x/0.y", **given} if VERBS[tool.name].loads_first else given)
            return Outcome({"summary": "valid"}, is_error=False)
        needs = {"sae": desk.sae} if VERBS[tool.name].loads_first else {}
        answer = desk.call(tool.name, {**needs, **arguments})
        return Outcome(answer.document, answer.is_error)

    def in_a_process(tool: Tool, given: Mapping[str, Any], *_: object, **__: object) -> Outcome:
        assert piece.check == "schema", f"{tool.name} takes long: mark it"
        validate(tool, {**given, **({"sae": "x/0.y"} if VERBS[tool.name].loads_first else {})})
        ran.append(tool.name)
        return Outcome({"summary": "valid", "state": "planned"}, is_error=False)

    monkeypatch.setattr("saescope_mcp.cli.calls.call", call)
    monkeypatch.setattr("saescope_mcp.cli.show.show", lambda *shown: None)
    monkeypatch.setattr("saescope_mcp.cli.following.start_and_follow", in_a_process)
    name = words[0].replace("-", "_")
    done = CliRunner().invoke(commands.app, words if name in TOOLS else [words[0], "--help"])
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    assert ran == ([name] if name in TOOLS else [])


def look_up_words(words: list[str], piece: Piece) -> None:
    """Programs are ones that a reader has; our targets, files and addresses exist."""
    program = (
        words[0].replace("\\", "/").rpartition("/")[2] if words[0].startswith(".venv") else words[0]
    )
    assert program in OTHERS, f"{piece}: what is {program}?"
    if program == "make":
        targets = re.findall(
            r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert words[1] in targets
    for word in words[1:]:
        path = word.replace("\\", "/")
        if re.fullmatch(
            r"(skills?|scripts|core|server|docs|tests|benchmarks)/[\w./-]*|\w+\.txt", path
        ):
            assert (ROOT / path).exists(), f"{piece}: there is no {path}"
        if "saescope/saescope" in word:
            assert re.fullmatch(
                r"(https://github.com/)?saescope/saescope(/skills/saescope)?", word
            ), word


def test_there_is_something_to_check() -> None:
    assert len(CALLS) > 30 and len(COMMANDS) > 10
    assert {Path(piece.document).name for piece in PIECES} >= {"README.md", "SKILL.md"}
