"""The command line speaks shell: help, examples, completion, and what it says first."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.server.test_cli import run
from typer.testing import CliRunner

from saescope.errors import ISSUES
from saescope.names import Source
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.cli import commands, completing, here, main, typed
from saescope_mcp.cli.calls import LOAD_SAE
from saescope_mcp.cli.commands import app
from saescope_mcp.cli.flags import arguments_from, flag_of, is_of_items
from saescope_mcp.cli.helping import example_of
from saescope_mcp.cli.typed import as_command, error_in_shell, in_shell
from saescope_mcp.cli.verbs import EXAMPLES, GROUPS, LOADING, OUTLIVE, SHORT, VERBS, Verb
from saescope_mcp.groups import Group
from saescope_mcp.jobs import Run, RunTable
from saescope_mcp.kinds import KINDS
from saescope_mcp.schemas.common import next_call
from saescope_mcp.settings import Settings
from saescope_mcp.state.sources import KnownHandles, Placement
from saescope_mcp.tools.steer import FIRST

TOOLS = {tool.name: tool for tool in ALL_TOOLS}
COMMANDS: Any = typer.main.get_command(app)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
TITLES = {
    "saescope serve",
    "saescope serve: ",
    "saescope view: ",
    "[bold]saescope demo[/]: inside a small real language model, on this machine.",
}
"""What names a command and asks nobody to run it."""
ODD = ["it's", 'say "ü"', "-c", " she", "a;b $HOME", "x=1#2", "two\nlines"]


def meant_by(words: list[str]) -> tuple[Verb, dict[str, Any]]:
    """The tool and the arguments that the real parser reads off the words of a command."""
    name, *rest = words
    made = COMMANDS.commands[name].make_context(name, rest)
    verb = VERBS[name.replace("-", "_")]
    return verb, arguments_from(verb, made.params) | {
        name: value for name in LOADING if (value := made.params.get(name))
    }


def some_value(name: str, schema: dict[str, Any], n: int) -> Any:
    """A value that the argument may have; texts are as odd as a shell can make them."""
    if is_of_items(schema):
        wide = {"positions": [3, -1]} if "positions" in schema["items"]["properties"] else {}
        return [{"feature": 5, "strength": -0.5, "mode": "clamp", **wide}, {"feature": n}]
    match schema["type"]:
        case "boolean":
            return not schema.get("default", False)
        case "integer":
            return n + 1
        case "number":
            return n + 0.5
        case "array":
            item = {**schema["items"], "default": False}
            return [some_value(name, item, k) for k in (n, n + 1)]
        case _:
            return schema["enum"][-1] if "enum" in schema else ODD[n % len(ODD)]


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.tool)
def test_a_call_with_any_arguments_is_the_same_call_as_a_command(verb: Verb) -> None:
    given = {
        name: some_value(name, dict(verb.properties[name]), n)
        for n, name in enumerate(verb.options)
    }
    program, *words = shlex.split(as_command(next_call(verb.tool, **given)))
    assert program == "saescope" and meant_by(words) == (verb, given)


def test_on_windows_a_command_has_double_quotes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "WINDOWS", True)
    spaced = ["it's she", 'say "ü"', "two\tlines", "C:\\my files\\", 'a \\"b\\\\"']
    assert typed.line_of(spaced) == subprocess.list2cmdline(spaced)
    said = 'top_features(text="it\'s; she & he", sae="m/1.x", k=3)'
    assert as_command(said) == 'saescope top-features --text "it\'s; she & he" --sae m/1.x --k 3'
    assert as_command('top_features(text="")') == 'saescope top-features --text ""'


def test_how_long_to_wait_is_no_option_of_a_command_that_waits() -> None:
    assert as_command('evaluate_sae(sae="a", wait_s=5)') == "saescope evaluate-sae --sae a"
    assert as_command('job_status(job_id="j", wait_s=5)').endswith("--job-id j --wait-s 5")


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("Call load_sae first.", "Run saescope load-sae first."),
        (
            'Call load_sae(path="/a b", model="m"), then top_features(text=["..."]).',
            "Run saescope load-sae --path '/a b' --model m, then saescope top-features --text ....",
        ),
        ('Use load_sae(..., hook_name="h").', "Use saescope load-sae ... --hook-name h."),
        ('A text like f(x) or "k (3" stays.', 'A text like f(x) or "k (3" stays.'),
        (
            'Say include_special=true, or rank_by="contrast".',
            "Say --include-special, or --rank-by contrast.",
        ),
        ("The seed=3 of strangers", "The seed=3 of strangers"),
    ],
)
def test_calls_within_a_sentence_are_commands(said: str, typed: str) -> None:
    assert in_shell(said, VERBS["top_features"]) == typed


@pytest.mark.parametrize("tool", ["intervene", "steer_generate"])
def test_a_summary_says_which_option_edits_position_0(tool: str) -> None:
    said = in_shell(f"left out: position 0 ('My'; to include it: {FIRST}).", VERBS[tool])
    assert said.endswith("('My'; to include it: saescope intervene --edit FEATURE@0).")


def test_an_error_names_options_where_a_call_names_arguments() -> None:
    error = {"code": "CONFLICTING_ARGUMENTS", "message": "text and texts are both given."}
    said = error_in_shell({**error, "allowed": "one of text, texts_file"}, VERBS["top_features"])
    assert said["message"] == "--text and --texts are both given."
    assert said["allowed"] == "one of --text, --texts-file"
    wrong = {"code": "OUT_OF_RANGE", "field": "k", "message": "'k' must be <= 100 (a k too far)."}
    said = error_in_shell(wrong, VERBS["top_features"])
    assert said["message"] == "--k must be <= 100 (a k too far)."


def test_every_tool_has_a_group_a_line_and_an_example() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted([*VERBS, "demo", "doctor", "serve", "view", "warm"])
    for tool in ALL_TOOLS:
        assert tool.group
        if tool.group is not Group.BASE:
            assert tool.name in GROUPS[tool.group.word]
    assert VERBS.keys() == TOOLS.keys() == EXAMPLES.keys() == SHORT.keys()


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.tool)
def test_an_example_is_a_call_that_the_tool_takes(verb: Verb) -> None:
    shown = example_of(verb).removeprefix("Example:").replace("\\\n", " ")
    _, *words = shlex.split(shown)
    assert words == shlex.split(EXAMPLES[verb.tool])
    made, given = meant_by([word for word in words if word != "--open"])
    if made.loads_first:
        given = {"sae": "a", **given}
    settings = Settings(read_anywhere=True)
    TOOLS[verb.tool].request.model_validate(given, context={"settings": settings})
    assert made.draws or "--open" not in words


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.tool)
def test_help_fits_a_screen_and_marks_what_is_required(
    verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, shown = run(verb.command, "--help")
    lines = shown.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 80
    assert "Example:\n" in shown and ("Required" in shown) == bool(verb.needed)
    described = shown.partition("Example:")[0]
    names = [name for name in [*VERBS, *verb.properties] if "_" in name]
    assert not re.search(rf"(?<![-\w.])({'|'.join(names)})(?![\w=])", described), described


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.tool)
def test_what_the_help_calls_required_is_what_the_tool_requires(verb: Verb) -> None:
    request, settings = TOOLS[verb.tool].request, Settings(read_anywhere=True)
    sae = {"sae": "a"} if verb.loads_first else {}
    plain = {"string": "a", "integer": 3, "array": ["a"]}
    edits = [{"feature": 3}]
    whole = {
        names[0]: edits
        if names[0] in ("edits", "features")
        else verb.properties[names[0]].get("enum", [plain[verb.properties[names[0]]["type"]]])[0]
        for names in verb.needed
    }
    request.model_validate({**sae, **whole}, context={"settings": settings})
    for names in verb.needed:
        less = {name: value for name, value in whole.items() if name != names[0]}
        with pytest.raises(ValueError, match=r"."):
            request.model_validate({**sae, **less}, context={"settings": settings})
        done = CliRunner().invoke(app, [verb.command])
        assert done.exit_code == 2
        assert all(flag_of(name, verb.properties[name]) in done.stderr for name in names)


def test_the_shipped_list_says_what_the_tools_are() -> None:
    assert set(OUTLIVE) == set(KINDS)
    for tool in ALL_TOOLS:
        sae = tool.request.model_fields.get("sae")
        needs_one = hasattr(tool.request, "handles") or (sae is not None and sae.is_required())
        assert VERBS[tool.name].loads_first == needs_one
    assert set(LOADING) <= LOAD_SAE.request.model_fields.keys()


def test_the_list_of_commands_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, shown = run("--help")
    assert len(shown.splitlines()) <= 61
    for title in (
        "Read:",
        "Explain:",
        "Know a feature:",
        "Steer:",
        "The scientist's bench:",
        "Train:",
        "Judge and publish:",
        "Serve:",
    ):
        assert f"\n{title}\n" in shown


def without_torch(words: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which fails where something slow is imported."""
    code = (
        "import sys\nfrom saescope_mcp.cli import main\ntry:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'mcp', 'saescope_mcp.schemas', 'numpy'} & sys.modules.keys()\n"
        "    sys.stderr.write(f'heavy: {sorted(heavy)}')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environ,
    )


def test_what_is_missing_is_said_before_anything_is_loaded() -> None:
    done = without_torch(["steer-generate", "--feature", "3=1"])
    assert done.returncode == 2 and done.stderr.endswith("heavy: []")
    assert "Missing: --prompt or --prompts." in done.stderr and "Example:" in done.stderr


def test_what_to_type_begins_as_the_command_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/saescope"])
    said = CliRunner().invoke(app, ["quiz-feature"]).stderr
    assert "\n  /elsewhere/saescope quiz-feature --feature 4432" in said
    assert "All options: /elsewhere/saescope quiz-feature --help" in said


def test_usage_begins_as_the_command_did_and_completion_keeps_the_plain_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/saescope"])
    for words in (["top-features", "--nope"], ["top-features", "--help"], ["doctor", "--nope"]):
        said = CliRunner().invoke(app, words, prog_name="saescope").output
        assert f"Usage: /elsewhere/saescope {words[0]} [OPTIONS]" in said
    told = CliRunner().invoke(app, ["top-features", "--nope"], prog_name="saescope").output
    assert "Try '/elsewhere/saescope top-features --help' for help." in told
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    shown = CliRunner().invoke(app, ["--show-completion"], prog_name="saescope").output
    assert "_SAESCOPE_COMPLETE=" in shown and "/elsewhere" not in shown


def test_a_crash_ends_in_one_line_that_says_where_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down() -> None:
        raise KeyError("never foreseen")

    monkeypatch.setattr("saescope_mcp.cli.here.show_what_is_here", break_down)
    with pytest.raises(SystemExit) as ended:
        main([])
    *_, last = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert last.startswith("INTERNAL: saescope crashed (KeyError); log id ")
    assert last.endswith("report it, with the lines above, at " + ISSUES)


def test_a_wrong_value_is_refused_before_an_sae_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr("saescope_mcp.tools.load.load_sae", never)
    code, shown = run("top-features", "--text", "a", "--k", "100000")
    assert code == 1 and shown.startswith("OUT_OF_RANGE --k must be")


def completed(words: str, **environ: str) -> list[str]:
    done = without_torch(
        [],
        _SAESCOPE_COMPLETE="complete_bash",
        COMP_WORDS=f"saescope {words}",
        COMP_CWORD=str(len(words.split(" "))),
        **environ,
    )
    assert done.stderr.endswith("heavy: []"), done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_pipe_of_any_encoding_takes_any_text(encoding: str) -> None:
    """As on Windows, where a pipe is not UTF-8."""
    asked = "日本 🙂"

    def told(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "saescope_mcp.cli", "cancel-job", "--job-id", asked, *words],
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            capture_output=True,
            check=False,
        )
        assert not done.stderr, done.stderr.decode()
        return done.stdout.decode(encoding)

    assert asked in json.dumps(json.loads(told("--json")), ensure_ascii=False)
    shown = told()
    assert (asked if encoding == "utf-8" else "\\u65e5\\u672c \\U0001f642") in shown


def test_tab_completes_commands_and_releases_without_torch() -> None:
    assert completed("ste") == ["steer-generate", "steer-search"]
    assert "gpt2-small-res-jb" in completed("top-features --release gpt2-small-res")


def test_handles_jobs_and_choices_are_completed(own_home: Path) -> None:
    KnownHandles().remember("m/1.x", Source(path="/p"), Placement())
    KnownHandles().remember("m/2.x", Source(path="/q"), Placement())
    assert completing.handles() == [*KnownHandles().all()][::-1] == ["m/2.x", "m/1.x"]
    (own_home / "jobs").mkdir()
    run_row = Run(
        id="train-1", tool="train_sae", state="done", created=1.0, queued=1.0, heartbeat=1.0
    )
    RunTable(own_home / "jobs" / "jobs.db").add(run_row, most_live=4)
    assert completing.jobs() == [run_row]
    unit = completing.values_of("unit", VERBS["intervene"].properties["unit"])
    assert unit is not None
    context = typer.Context(COMMANDS)
    assert unit(context, "t") == ["typical"]


def test_saescope_alone_tells_what_is_here_and_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path))
    KnownHandles().remember("m/1.x", Source(path="/p"), Placement())
    done = without_torch([])
    assert done.returncode == 0 and done.stderr.endswith("heavy: []")
    assert "m/1.x" in done.stdout and "embedded model  not fetched yet" in done.stdout
    commands = re.findall(r"^  \S*(?:saescope|-c) (.+)$", done.stdout, re.MULTILINE)
    assert commands[0] == "demo" and len(commands) >= 3
    for command in commands:
        name, *rest = shlex.split(command)
        if not name.startswith("--"):
            COMMANDS.commands[name].make_context(name, rest)


def test_what_is_suggested_starts_with_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no shell finds saescope by its name, as in a clone, that name alone is no command."""
    ours = tmp_path / "saescope"
    ours.touch()
    monkeypatch.setattr(sys, "argv", [str(ours)])
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    missing = CliRunner().invoke(app, ["steer-generate", "--feature", "3=1"]).stderr
    said = [
        as_command('top_features(text="a")'),
        in_shell("Call load_sae first, then top_features."),
        in_shell('Run load_sae(path="a").'),
        *map(example_of, VERBS.values()),
        missing,
    ]
    commands_of_all = "|".join(verb.command for verb in VERBS.values())
    for text in said:
        named = re.findall(rf"(\S*saescope) (?:{commands_of_all})\b", text)
        assert named and {*named} == {str(ours)}, text


def test_no_suggestion_of_the_command_line_has_the_plain_name() -> None:
    names = {*COMMANDS.commands, "COMMAND", "--help"}
    for path in Path(typed.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        documented = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, DOCUMENTED)
        }
        for text in texts:
            if isinstance(text, str) and text not in documented | TITLES:
                assert not names & {*re.findall(r"\bsaescope ([\w-]+)", text)}, (path, text)


def test_a_page_that_nothing_opens_is_said_to_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(typer, "launch", lambda place: 1)
    commands.open_page({"page_path": "/p.html"})
    shown = capsys.readouterr().err
    assert "opening /p.html" in shown and "nothing here opens it" in shown


def test_a_feature_s_page_is_suggested_whatever_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(here.embedded, "is_ready", lambda: True)
    assert any("--open" in words for words, _ in here.next_steps(running=False))


def test_open_draws_and_opens_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from saescope_mcp.binding import Outcome

    opened: list[str] = []
    asked: list[dict[str, Any]] = []

    def call(tool: Any, arguments: dict[str, Any], *_: object) -> Outcome:
        asked.append(arguments)
        return Outcome({"summary": "s", "page_path": "/p.html"}, is_error=False)

    monkeypatch.setattr("saescope_mcp.cli.calls.call", call)
    monkeypatch.setattr(typer, "launch", lambda place: opened.append(place) or 0)
    code, shown = run("describe-feature", "--feature", "3", "--open", "--json")
    assert code == 0 and json.loads(shown)["page_path"] == "/p.html"
    assert opened == ["/p.html"] and asked == [{"feature": 3, "picture": True}]


def test_open_opens_the_page_that_a_circuit_has_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    from saescope_mcp.binding import Outcome

    opened: list[str] = []
    asked: list[dict[str, Any]] = []

    def call(tool: Any, arguments: dict[str, Any], *_: object) -> Outcome:
        asked.append(arguments)
        return Outcome({"summary": "s", "page_path": "/graph.html"}, is_error=False)

    monkeypatch.setattr("saescope_mcp.cli.calls.call", call)
    monkeypatch.setattr(typer, "launch", lambda place: opened.append(place) or 0)
    code, shown = run("trace-circuit", "--prompt", "a b", "--open", "--json")
    assert code == 0 and json.loads(shown)["page_path"] == "/graph.html"
    assert opened == ["/graph.html"] and asked == [{"prompt": "a b"}]
