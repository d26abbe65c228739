import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.server.helpers import PROMPT, call
from typer.testing import CliRunner

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Outcome, Tool
from saescope_mcp.cli.calls import FOREVER_S
from saescope_mcp.cli.commands import app
from saescope_mcp.cli.demo import Demo
from saescope_mcp.cli.flags import arguments_from
from saescope_mcp.cli.terminal import Terminal
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.state import AppState


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1234", {"feature": 1234}),
        ("1234=4", {"feature": 1234, "strength": 4.0}),
        ("1234=-0.5:clamp", {"feature": 1234, "strength": -0.5, "mode": "clamp"}),
        ("12:ablate", {"feature": 12, "mode": "ablate"}),
        (
            "1234=0:ablate@3,-1",
            {"feature": 1234, "strength": 0.0, "mode": "ablate", "positions": [3, -1]},
        ),
        (
            "1234=2?99>3.5",
            {"feature": 1234, "strength": 2.0, "when_feature": 99, "when_above": 3.5},
        ),
        (
            "m/1.resid_pre#7:clamp?m/0.resid_pre#99",
            {
                "sae": "m/1.resid_pre",
                "feature": 7,
                "mode": "clamp",
                "when_sae": "m/0.resid_pre",
                "when_feature": 99,
            },
        ),
        ("twelve", {"feature": "twelve"}),
    ],
)
def test_an_edit_is_written_in_one_word(said: str, meant: dict[str, Any]) -> None:
    assert arguments_from(VERBS["intervene"], {"edits": [said]}) == {"edits": [meant]}


def test_options_become_arguments_of_their_types() -> None:
    given = {
        "sae": "a",
        "top_k": "5",
        "positions": ["1,2", "-1"],
        "text": None,
        "texts": [],
        "include_special": True,
    }
    assert arguments_from(VERBS["encode_text"], given) == {
        "sae": "a",
        "top_k": 5,
        "positions": [1, 2, -1],
        "include_special": True,
    }
    assert arguments_from(VERBS["steer_generate"], {"temperature": "0.5", "n_samples": "many"}) == {
        "temperature": 0.5,
        "n_samples": "many",
    }


def test_every_tool_has_a_command() -> None:
    code, text = run("--help")
    assert code == 0
    assert all(tool.name.replace("_", "-") in text for tool in ALL_TOOLS)


def test_json_prints_the_document_of_an_error_and_fails() -> None:
    code, text = run("top-features", "--sae", "zz", "--text", "a", "--json")
    error = json.loads(text)
    assert (
        code == 1
        and error["code"] == "SAE_NOT_LOADED"
        and error.keys() == {"code", "message", "field", "got", "allowed", "hint"}
    )


def test_a_wrong_value_is_the_tools_own_error() -> None:
    code, text = run("job-status", "--wait-s", "long", "--json")
    assert code == 1 and json.loads(text)["code"] == "INVALID_TYPE"


def test_json_prints_what_the_tool_returns(
    tiny: AppState, sae: str, sae_dir: Path, glass_dir: Path
) -> None:
    code, text = run(
        "encode-text", "--path", str(sae_dir), "--model", str(glass_dir), "--text", PROMPT, "--json"
    )

    async def document() -> dict[str, Any]:
        return await call(tiny, "encode_text", sae=sae, text=PROMPT)

    assert code == 0 and json.loads(text) == anyio.run(document)


def test_features_of_a_command_may_be_numbers(
    tiny: AppState, sae: str, sae_dir: Path, glass_dir: Path
) -> None:
    where = ["--path", str(sae_dir), "--model", str(glass_dir), "--json"]
    asked = ["--dataset", "embedded", "--n-tokens", "300", "--features", "3", "--features", "7"]
    code, text = run("encode-text", *asked, *where)

    async def document() -> dict[str, Any]:
        given = {"sae": sae, "features": [3, 7], "dataset": "embedded", "n_tokens": 300}
        return await call(tiny, "encode_text", **given)

    wanted = anyio.run(document)
    assert code == 0 and json.loads(text)["features"] == wanted["features"]


def test_a_person_gets_tables(sae_dir: Path, glass_dir: Path) -> None:
    code, text = run(
        "intervene",
        "--path",
        str(sae_dir),
        "--model",
        str(glass_dir),
        "--prompt",
        PROMPT,
        "--edit",
        "7=2",
    )
    assert code == 0 and "a change of" in text and "likeliest before" in text
    code, text = run("load-sae", "--path", "/nowhere")
    assert code == 1 and "FILE_MISSING" in text and "Next:" in text


def test_version_and_help_need_no_torch() -> None:
    code = (
        "import sys\nfrom saescope_mcp.cli import main\ntry:\n    "
        "main(['--version'])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("saescope ")


async def test_a_step_of_the_demo_lasts_as_long_as_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, dict[str, Any]] = {}

    async def call(tool: Tool, state: AppState, arguments: dict[str, Any]) -> Outcome:
        asked[tool.name] = arguments
        return Outcome({"summary": "s"}, is_error=False)

    monkeypatch.setattr(Tool, "call", call)
    story = Demo(Terminal(file=io.StringIO()))
    for name in ("load_sae", "steer_generate", "top_features"):
        await story.call(name, "working")
    forever = {"wait_s": FOREVER_S}
    assert asked == {"load_sae": forever, "steer_generate": forever, "top_features": {}}


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_tells_the_whole_story_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in an activated environment: elsewhere the demo names the executable's path, however long
    # it is.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    code, text = run("demo")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "Which features fire",
        "measured",
        "after",
        "Trace the circuit",
        "→ f14.",
        "of the influence ends in errors",
        "strongest edges",
        "steered 1",
        "control",
        "claude mcp add sae -- saescope serve",
        "gpt2-small-res-jb",
    ):
        assert part in text
