"""Claude Code, Codex, Gemini and Hermes install the plugin, connect to its server and find its
skill."""

import json
import os
import re
from pathlib import Path

import pytest
from tests.clients.conftest import KEPT, Run

from saescope_mcp.app import ALL_TOOLS

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
ASK_HERMES = Path(__file__).parent / "ask_hermes.py"


def test_claude_code_validates_installs_and_connects_at_once(
    run: Run, clients: Path, checkout: Path
) -> None:
    claude = next(clients.glob("node_modules/@anthropic-ai/claude-code-*/claude"))
    assert "Validation passed" in run(claude, "plugin", "validate", "--strict", checkout)
    assert "Validation passed" in run(
        claude, "plugin", "validate", "--strict", "--profile", "directory", checkout
    )
    run(claude, "plugin", "marketplace", "add", checkout)
    run(claude, "plugin", "install", "saescope@saescope")
    assert re.search(
        r"plugin:saescope:sae: uv run .*✔ Connected", run(claude, "mcp", "list")
    )  # nothing is installed yet
    assert "Skills (1)  saescope" in run(claude, "plugin", "details", "saescope")


def test_codex_installs_the_portable_plugin_and_lists_its_server(run: Run, checkout: Path) -> None:
    run("codex", "plugin", "marketplace", "add", checkout)
    run("codex", "plugin", "add", "saescope@saescope")
    assert re.search(r"saescope@saescope\s+installed, enabled", run("codex", "plugin", "list"))
    server = run("codex", "mcp", "get", "sae")
    assert "enabled: true" in server and "command: uv" in server and "${" not in server


def test_gemini_installs_the_extension_with_skill_and_server(run: Run, checkout: Path) -> None:
    assert "successfully validated" in run("gemini", "extensions", "validate", checkout)
    run("gemini", "extensions", "install", checkout, "--consent", answer="y\n" * 5)
    listed = run("gemini", "extensions", "list")
    assert "sae" in listed and "saescope: Look inside a language model" in listed
    assert re.search(r"✓ sae .*Connected", run("gemini", "mcp", "list"))


def test_hermes_reads_the_skill_and_its_first_call_is_answered_by_the_real_server(
    run: Run, clients: Path, checkout: Path, launcher: Path, tmp_path: Path
) -> None:
    """From nothing installed to the document of find_saes, on one connection."""
    passed_on = {
        name: value for name, value in os.environ.items() if name.startswith(KEPT)
    }  # Hermes passes on nothing else
    server = {
        "command": "uv",
        "args": ["run", "--script", str(launcher)],
        "env": passed_on,
        "timeout": 600,
        "connect_timeout": 120,
    }
    config = {
        "mcp_servers": {"sae": server},
        "skills": {"external_dirs": [str(checkout / "skills")]},
    }
    (tmp_path / ".hermes").mkdir()
    (tmp_path / ".hermes" / "config.yaml").write_text(json.dumps(config))
    said = json.loads(
        run(
            clients / "hermes/bin/python", ASK_HERMES, checkout / "skills" / "saescope"
        ).splitlines()[-1]
    )
    assert set(said["tools"]) >= {f"mcp__sae__{tool.name}" for tool in ALL_TOOLS}
    assert said["skill"] and said["guard"] == "safe"
    assert "INSTALLING" in said["first"] and "gpt2-small-res-jb" in said["last"]
