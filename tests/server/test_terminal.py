"""What strangers wrote is text on a terminal, never a command to it."""

import io
import json
import random
import re
import unicodedata
from collections import Counter
from typing import Any

import pytest
from rich.cells import cell_len
from rich.markup import escape
from rich.progress import Progress, TextColumn
from tests.server.test_cli import run

from saescope.untrusted import clean_output
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.flags import flag_of
from saescope_mcp.cli.following import fields_of, live_display
from saescope_mcp.cli.show import show
from saescope_mcp.cli.terminal import Terminal, json_line
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.cli.warm import CommandOutcome
from saescope_mcp.jobs import Run

WIDTHS = (30, 40, 60, 80, 120)
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
    show(CommandOutcome(document, is_error), Terminal(file=file, width=200, color_system=None))
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


def shown_at(width: int, document: dict[str, Any]) -> str:
    """On a terminal of this width."""
    file = io.StringIO()
    console = Terminal(file=file, width=width, force_terminal=True, color_system=None)
    show(CommandOutcome(document, is_error=False), console)
    return file.getvalue()


def random_rows(rng: random.Random) -> list[dict[str, Any]]:
    """Rows as tools return them, of long names, large numbers and texts."""

    def value(kind: str) -> Any:
        return {
            "name": "-".join(rng.choice(["gemma", "scope", "262k", "transcoder"]) for _ in "12345"),
            "whole": rng.randrange(10 ** rng.randrange(1, 18)),
            "real": rng.uniform(-1, 1) * 10.0 ** rng.randrange(-8, 9),
            "text": " ".join(["word", "日本語", "x" * 50][: rng.randrange(1, 4)]),
            "empty": None,
        }[kind]

    kinds = [rng.choice(["name", "whole", "real", "text", "empty"]) for _ in range(9)]
    columns = {f"column_{i}": kind for i, kind in enumerate(["whole", *kinds])}
    return [{name: value(kind) for name, kind in columns.items()} for _ in range(4)]


@pytest.mark.parametrize("seed", range(20))
def test_numbers_are_whole_at_every_width_and_names_fold(seed: int) -> None:
    rows = random_rows(random.Random(seed))
    single = {f"value_{i}": value for i, value in enumerate(rows[0].values())}
    document = {**COMMON, "summary": "s", "rows": rows, **single}
    numbers = {
        text_of(value) for row in rows for value in row.values() if isinstance(value, int | float)
    }
    names = "".join(value for row in rows for value in row.values() if isinstance(value, str))
    for width in WIDTHS:
        shown = shown_at(width, document)
        assert numbers <= set(shown.split()), width
        assert max(map(cell_len, shown.splitlines())) <= width
        assert "…" not in shown
        missing = Counter("".join(names.split())) - Counter("".join(shown.split()))
        assert not missing, (width, missing)


def test_a_pipe_takes_rows_as_wide_as_they_are() -> None:
    rows = random_rows(random.Random(1))
    file = io.StringIO()
    show(CommandOutcome({**COMMON, "summary": "s " * 90, "rows": rows}, False), Terminal(file=file))
    said, _title, _heading, *lines = file.getvalue().splitlines()
    assert said.strip() == ("s " * 90).strip()
    for row, line in zip(rows, lines, strict=True):
        cells = [text_of(value) for value in row.values() if value is not None]
        assert line.split() == " ".join(cells).split()


@pytest.mark.parametrize("width", [30, 40, 80])
def test_the_progress_of_a_training_keeps_its_numbers_whole(width: int) -> None:
    run = Run(
        id="train-1",
        tool="train_sae",
        state="running",
        created=0.0,
        queued=0.0,
        heartbeat=0.0,
        message="training on the corpus",
        progress={
            "step": 123456,
            "n_steps": 4882812,
            "eta_s": 7200.0,
            "metrics": {"latest": {"l0": 1234.5, "explained_variance": 0.923, "dead_share": 0.999}},
        },
    )
    file = io.StringIO()
    console = Terminal(file=file, width=width, force_terminal=True, color_system=None)
    with live_display(console) as (display, task):
        display.update(task, **fields_of(run))
    shown = file.getvalue()
    for number in ("123456/4882812", "1234.5", "0.923", "99.9%"):
        assert number in shown, shown


@pytest.mark.parametrize("width", ["40", "80"])
def test_help_names_every_option_in_full(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for tool in ALL_TOOLS:
        _, out = run(tool.name.replace("_", "-"), "--help")
        verb = VERBS[tool.name]
        for name in verb.options:
            flag = flag_of(name, verb.properties[name])
            assert f" {flag} " in out and "…" not in out, (flag, out)


def test_find_saes_shows_every_width_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    for columns in ("40", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        _, out = run("find-saes", "--query", "gemma scope 2 16k", "--limit", "5")
        _, found = run("find-saes", "--query", "gemma scope 2 16k", "--limit", "5", "--json")
        plain = re.sub("\x1b\\[[0-9;]*m", "", out).split()
        for row in json.loads(found)["saes"]:
            assert str(row["d_sae"]) in plain


def test_a_terminal_of_no_width_is_one_whose_width_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert Terminal().width >= 80
