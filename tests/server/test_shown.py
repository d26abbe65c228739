"""What a person at a terminal reads: tables, options and the next command."""

import io
import re
import shlex
from typing import Any

import pytest
import typer
from tests.server.test_cli import run
from tests.server.test_terminal import COMMON, printed, shown_at

from saescope.progress import sparing
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.cli.commands import app
from saescope_mcp.cli.flags import arguments_from
from saescope_mcp.cli.show import show
from saescope_mcp.cli.terminal import Terminal
from saescope_mcp.cli.typed import as_command
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.cli.warm import CommandOutcome
from saescope_mcp.schemas.common import next_call

SCORES = {
    "precision": {"value": 0.28, "low": 0.09, "high": 0.6},
    "recall": {"value": 1.0, "low": None, "high": None},
    "auc": 0.97,
}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("describe_feature", {"sae": "tiny/1", "feature": 7}),
    ("find_features", {"sae": "tiny/1", "tokens": [" Paris", "it's"], "offset": 3}),
    ("encode_text", {"texts": ["a b", "-c"], "features": [4, 5], "pattern": "\\b(she|her)\\b"}),
    ("encode_text", {"saes": ["tiny/1", "tiny/2"], "text": 'say "ü"\n'}),
    (
        "intervene",
        {
            "prompt": "P",
            "edits": [
                {"feature": 5, "mode": "ablate", "positions": [4, -1]},
                {"sae": "tiny/2", "feature": 6, "strength": -0.5},
            ],
            "target": " Paris",
        },
    ),
    ("steer_generate", {"prompt": "P", "features": [{"feature": 1}], "strengths": [0.5, 1.0]}),
    ("label_feature", {"sae": "a", "feature": 1, "quiz_id": "q", "answers": [True, False]}),
    ("publish_sae", {"sae": "a", "repo_id": "o/n", "dry_run": False}),
    ("load_sae", {"release": "r", "sae_id": "i", "dry_run": True}),
]


def given_by(words: list[str], command: Any) -> dict[str, Any]:
    """What typer hands to the command's function."""
    made = command.make_context("saescope", list(words))
    return {name: value for name, value in made.params.items() if name != "as_json"}


@pytest.mark.parametrize(("tool", "arguments"), CALLS)
def test_the_next_command_means_the_same_call(tool: str, arguments: dict[str, Any]) -> None:
    program, verb, *words = shlex.split(as_command(next_call(tool, **arguments)))
    assert (program, verb) == ("saescope", tool.replace("_", "-"))
    commands: Any = typer.main.get_command(app)
    given = given_by(words, commands.commands[verb])
    assert arguments_from(VERBS[tool], given) == arguments


@pytest.mark.parametrize("said", ["Try again.", "no_tool(a=1)", "load_sae(a=b)", "x", "f(", ""])
def test_what_is_no_call_is_said_as_it_is(said: str) -> None:
    assert as_command(said) == said


def test_a_person_is_told_a_command_to_go_on_with() -> None:
    call = next_call("describe_feature", sae="tiny/1", feature=7)
    shown = printed({**COMMON, "summary": "s", "next": [call]})
    assert "next: saescope describe-feature --sae tiny/1 --feature 7\n" in shown


def test_columns_of_nested_values_are_told_apart() -> None:
    rows = [{"feature": 1, "by_token": SCORES, "by_text": SCORES, "share": {"auc2": 2}}]
    heading = printed({**COMMON, "summary": "s", "features": rows}).splitlines()[2].split()
    nested = [f"{by}.{name}" for by in ("by_token", "by_text") for name in SCORES]
    assert heading == ["feature", *nested, "auc2"]


def test_an_interval_stands_in_one_cell() -> None:
    shown = printed({**COMMON, "summary": "s", "features": [{"feature": 1, **SCORES}]})
    assert "0.28 (0.09 to 0.6)  1       0.97" in shown


def test_objects_in_a_cell_are_no_code_and_tokens_keep_their_spaces() -> None:
    row = {"feature": 1, "tokens": [{"token": " Paris", "rank": 3}], "promoted": " a", "on": True}
    shown = printed({**COMMON, "summary": "s", "features": [row]})
    assert "' Paris' 3" in shown and "' a'" in shown and "yes" in shown and "{" not in shown


def test_a_label_stands_in_one_cell_with_what_its_test_said() -> None:
    score = {"balanced_accuracy": 0.9167, "low": 0.6, "high": 0.98, "n": 12}
    label = {"text": "women", "source": "agent", "score": score, "verdict": "better than chance"}
    rows = [{"feature": 1, "label": label}, {"feature": 2, "label": None}]
    shown = printed({**COMMON, "summary": "s", "features": rows})
    assert "women (balanced accuracy 0.92, better than chance)" in shown
    shown = printed(
        {**COMMON, "summary": "s", "features": [{**rows[0], "label": {**label, "score": None}}]}
    )
    assert "women (better than chance)" in shown


def test_a_table_without_room_goes_on_below_itself() -> None:
    rows = [{"feature": n, **{f"a_long_heading_{i}": 0.5 + i for i in range(9)}} for n in (11, 22)]
    lines = shown_at(80, {**COMMON, "summary": "s", "features": rows}).splitlines()
    tables = [line.split() for line in lines if "heading" in line]
    assert len(tables) == 3 and all(heading[0] == "feature" for heading in tables)
    assert [name for heading in tables for name in heading[1:]] == list(rows[0])[1:]
    assert sum(line.split()[:1] == ["22"] for line in lines) == 3
    assert max(map(len, lines)) <= 80


def test_a_list_of_features_alone_takes_a_line() -> None:
    rows = [{"feature": 5, "label": None}, {"feature": 6, "label": None}]
    assert "features  5, 6\n" in printed({**COMMON, "summary": "s", "features": rows})


def test_a_pipe_gets_no_spaces_at_the_ends_of_lines() -> None:
    file = io.StringIO()
    document = {
        **COMMON,
        "summary": "s",
        "rows": [{"a": "x" * 99}, {"a": "y"}],
        "b": 1,
        "long": "z",
    }
    show(CommandOutcome(document, is_error=False), Terminal(file=file))
    assert all(line == line.rstrip() for line in file.getvalue().splitlines())


def test_strengths_may_be_typed_with_commas_or_one_by_one() -> None:
    for typed in (["0.5,1", "-2"], ["0.5", "1", "-2"]):
        assert arguments_from(VERBS["steer_generate"], {"strengths": typed}) == {
            "strengths": [0.5, 1.0, -2.0]
        }


def test_only_what_outlives_the_command_can_be_left_waiting() -> None:
    """A job of the process ends with it: its job_id would lead nowhere."""
    for tool in ALL_TOOLS:
        _, shown = run(tool.name.replace("_", "-"), "--help")
        outlives = tool.name in ("train_sae", "index_features", "job_status")
        assert ("--wait-s" in shown) == outlives, tool.name


def test_help_begins_with_what_a_person_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flags = {}
    for name in ("encode-text", "find-features", "steer-generate"):
        _, shown = run(name, "--help")
        flags[name] = re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE)
        assert "Default: -1" not in shown and "[0.5" not in shown and '[" ' not in shown
    assert flags["encode-text"][:4] == ["--text", "--texts", "--texts-file", "--dataset"]
    assert flags["find-features"][:4] == ["--query", "--tokens", "--texts", "--texts-file"]
    assert flags["steer-generate"][:3] == ["--prompt", "--prompts", "--sae"]


def test_a_share_that_grows_is_said_every_quarter() -> None:
    said: list[str] = []
    say = sparing(said.append)
    for message in ["loading", "loading", *(f"reading: {n}%" for n in range(101)), "done"]:
        say(message)
    quarters = [f"reading: {n}%" for n in (0, 25, 50, 75, 100)]
    assert said == ["loading", *quarters, "done"]


def test_an_error_says_what_is_allowed() -> None:
    error = {"code": "COLUMN_NOT_FOUND", "message": "No column 'sort'.", "hint": "Correct it."}
    shown = printed({**error, "got": "sort", "allowed": "text, kind"}, is_error=True)
    assert shown == "COLUMN_NOT_FOUND No column 'sort' (allowed text, kind).\nNext: Correct it.\n"
