"""What strangers wrote is text on a terminal, never a command to it."""

import io
import json
import unicodedata
from typing import Any

import pytest
from rich.markup import escape
from rich.progress import Progress, TextColumn
from tests.server.test_cli import run

from saescope.untrusted import clean_output
from saescope_mcp.cli.show import show
from saescope_mcp.cli.terminal import Terminal, json_line
from saescope_mcp.tool import Outcome

HOSTILE = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x9b2J",
    "\x1b]52;c;ZXZpbA==\x07",  # fills the clipboard
    "\x9d52;c;ZXZpbA==\x9c",
    "\x1b]0;title\x1b\\",
    "\x1bP+q544e\x1b\\",
    "\x1bc",
    "\u202e\u2066\u200b\ufeff",
    "\r\b\x00\x7f\x1b",
]
COMMON = {
    "next": [],
    "warnings": [],
    "evidence": None,
    "result_id": None,
    "provenance": None,
    "truncated": False,
    "next_offset": None,
}


def printed(document: dict[str, Any], *, is_error: bool = False) -> str:
    file = io.StringIO()
    show(Outcome(document, is_error), Terminal(file=file, width=200, color_system=None))
    return file.getvalue()


def obeyed(text: str) -> list[str]:
    return [char for char in text if char != "\n" and unicodedata.category(char)[0] == "C"]


@pytest.mark.parametrize("evil", HOSTILE)
def test_whatever_a_document_says_is_only_text(evil: str) -> None:
    said = f"before{evil}after"
    document = {
        **COMMON,
        "summary": said,
        "warnings": [said],
        "next": [said],
        "samples": [{"text": said, "token": said}],
        "name": said,
        "list": [said],
    }
    shown = printed(document)
    assert not obeyed(shown) and shown.count("beforeafter") >= 5
    refused = printed({"code": "X", "message": said, "hint": said}, is_error=True)
    assert not obeyed(refused) and refused.count("beforeafter") == 2


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_progress_bar_says_messages_as_text(evil: str) -> None:
    file = io.StringIO()
    console = Terminal(file=file, width=80, color_system=None)
    with Progress(TextColumn("{task.description}"), console=console) as bar:
        bar.add_task(escape(f"before{evil}after"), total=1)
    shown = file.getvalue()
    assert shown.startswith("before") and shown.rstrip().endswith("after") and not obeyed(shown)


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_document_as_json_keeps_every_character_and_shows_none_of_them(evil: str) -> None:
    document = {"text": evil, "plain": "日本 🙂"}
    line = json_line(document)
    assert not obeyed(line) and "日本 🙂" in line and json.loads(line) == document


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_command_prints_no_control_character(flags: tuple[str, ...]) -> None:
    status, out = run("find-saes", "--query", "gpt2\x1b[2J\u202e\x9b2J", "--limit", "1", *flags)
    assert status in (0, 1) and out and not obeyed(out)


def test_a_sequence_that_never_ends_takes_nothing_along() -> None:
    assert clean_output("12 \x1b]52;c;AAAA features\n34") == "12 ]52;c;AAAA features\n34"
    assert clean_output("a\tb\n ünïcode ⟦x⟧") == "a\tb\n ünïcode ⟦x⟧"
    assert printed({**COMMON, "summary": "a :cat: sat"}).startswith("a :cat: sat")
