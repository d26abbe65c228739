"""What runs elsewhere: workflows call targets that are here and have no more rights than they need;
buttons and bundles start what the registry entry starts."""

import base64
import json
import os
import re
import runpy
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import yaml

import saescope

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
MAY_WRITE = {
    ("release.yml", "package-index"): {"id-token": "write"},
    ("release.yml", "mcp-registry"): {"contents": "read", "id-token": "write"},
    ("release.yml", "release-page"): {"contents": "write"},
    ("manual.yml", "deploy"): {"id-token": "write", "pages": "write"},
}
MAKERS = {"actions", "pypa"}
HOSTS = {"download.pytorch.org", "github.com"}
BUNDLE = runpy.run_path(str(ROOT / "scripts" / "build_mcpb.py"))
REGISTRY = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", MAKEFILE, flags=re.MULTILINE))


def test_the_gate_calls_targets_that_are_here_and_the_help_lists_all() -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    called = re.findall(r"\bmake ([\w-]+)", "\n".join(x for x in gate if not x.startswith("#")))
    assert {"test", "check", "docs-site"} <= {*called} <= targets()
    phony = set(MAKEFILE.partition(".PHONY: ")[2].partition("\n")[0].split())
    helped = re.findall(r'@echo "make ([\w-]+)', MAKEFILE)
    assert {*helped, "help"} == phony and len(helped) == len(phony) - 1


def test_make_docs_writes_every_page_that_make_check_compares() -> None:
    recipes = (MAKEFILE.partition(f"\n{target}: ")[2] for target in ("docs", "check"))
    written, compared = (
        {*re.findall(r"scripts/(\w+)\.py", recipe.partition("\n\n")[0])} for recipe in recipes
    )
    assert written == compared and "build_library_page" in written


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")
@pytest.mark.parametrize(
    ("system", "environ", "is_small"),
    [
        ("Linux", {}, False),
        ("Linux", {"PIP_ARGS": "--extra-index-url https://download.pytorch.org/whl/cpu"}, True),
        ("Linux", {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"}, True),
        ("Linux", {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cu130"}, False),
        ("Darwin", {}, True),
        ("MINGW64_NT-10.0-20348", {}, True),
    ],
)
def test_the_set_up_announces_the_torch_that_the_machine_will_get(
    system: str, environ: dict[str, str], is_small: bool, tmp_path: Path
) -> None:
    for name, says in (("uname", f"echo {system}"), ("python", "exit 1")):  # it has no torch yet
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    said = subprocess.run(
        ["sh", ROOT / "scripts" / "announce_downloads.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PY": "python", **environ},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ("360 MB" in said) == is_small and ("2.7 GB" in said) == (not is_small)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_calls_targets_and_scripts_that_are_here(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    versions = WORKFLOWS[name]["jobs"].get("versions", {}).get("strategy", {}).get("matrix", {})
    wanted = {*versions.get("target", []), *(row["target"] for row in versions.get("include", []))}
    called = {
        word
        for line in re.findall(r"run: make (.+)", text)
        for word in re.sub(r"-C \S+|\$\{\{.*?\}\}|\w+=\S+", "", line).split()
    }
    assert called | wanted <= targets()
    assert called | wanted or "mcp-publisher" in text
    for script in re.findall(r"(?:scripts|\.ci)/[\w.]+", text):
        assert (ROOT / script).is_file()
    assert set(re.findall(r"https://([\w.]+)/", text)) <= HOSTS


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_job_ends_by_itself_and_may_write_only_where_it_publishes(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for job, said in WORKFLOWS[name]["jobs"].items():
        assert said["timeout-minutes"] <= 120
        assert said.get("permissions") == MAY_WRITE.get((name, job))
        for step in said["steps"]:
            maker, _, version = step.get("uses", "actions/x@v1").partition("@")
            assert maker.split("/")[0] in MAKERS and re.fullmatch(r"v\d+|release/v1", version)


def test_every_python_and_every_system_of_the_manifest_is_tried() -> None:
    said = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', said))
    scheduled = WORKFLOWS["scheduled.yml"]["jobs"]["versions"]["strategy"]["matrix"]
    assert promised == {*scheduled["python"]} and "3.11" in promised
    jobs = WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in jobs} <= promised
    tried = {row["os"].split("-")[0] for row in jobs}
    systems = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}
    assert tried == systems.keys()
    assert set(re.findall(r'"Operating System :: (.+)"', said)) <= {*systems.values()}


def started() -> tuple[str, list[str]]:
    """The command of the registry entry."""
    [package] = REGISTRY["packages"]
    before = [
        word for each in package["runtimeArguments"] for word in (each["name"], each["value"])
    ]
    after = [each["value"] for each in package["packageArguments"]]
    return package["runtimeHint"], [*before, package["identifier"], *after]


def test_the_buttons_of_the_readme_start_what_the_registry_entry_starts() -> None:
    links = dict(re.findall(r"\[!\[Install in ([\w ]+)\]\([^)]+\)\]\(([^)]+)\)", README))
    assert links.keys() == {"VS Code", "Cursor", "LM Studio", "Goose"}
    command, words = started()
    configured = {"command": command, "args": words}
    for client, link in links.items():
        query = parse_qs(urlsplit(link).query)
        if client == "Goose":
            asked = parse_qsl(urlsplit(link).query)
            assert query["cmd"] == [command] and query["id"] == ["sae"]
            assert [value for key, value in asked if key == "arg"] == words
            continue
        said = query["config"][0]
        decoded = said if client == "VS Code" else base64.b64decode(said, validate=True).decode()
        assert query["name"] == ["sae"] and json.loads(decoded) == configured, client


def test_the_bundle_for_claude_desktop_starts_the_launcher_and_holds_what_that_needs(
    tmp_path: Path,
) -> None:
    manifest: dict[str, Any] = BUNDLE["manifest"]()
    assert (manifest["manifest_version"], manifest["version"]) == ("0.4", saescope.__version__)
    started = manifest["server"]["mcp_config"]
    assert started["args"][:3] == ["run", "--script", "${__dirname}/scripts/launch.py"]
    asked = {name for value in started["env"].values() for name in re.findall(r"\.(\w+)\}", value)}
    assert asked == manifest["user_config"].keys()
    assert all("default" in each for each in manifest["user_config"].values())
    BUNDLE["build"].__globals__["BUNDLE"] = tmp_path / "saescope.mcpb"
    BUNDLE["build"]()
    with zipfile.ZipFile(tmp_path / "saescope.mcpb") as bundle:
        held = {*bundle.namelist()}
        assert json.loads(bundle.read("manifest.json")) == manifest
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"}
    needed |= {"server/saescope_mcp/tools.json", "skills/saescope/SKILL.md", manifest["icon"]}
    assert needed | {manifest["server"]["entry_point"]} <= held
    assert not {name for name in held if "__pycache__" in name or name.startswith("tests/")}


def test_the_citation_has_the_version_and_the_address_of_the_package() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert said["cff-version"] == "1.2.0" and said["version"] == saescope.__version__
    assert said["repository-code"] == REGISTRY["repository"]["url"] and said["license"] == "MIT"
    assert said["authors"] and said["message"] and said["title"]


def test_the_sdist_has_everything_that_is_tracked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    tops = {name.split("/")[0] for name in listed}
    assert tops <= {*included} and all((ROOT / name).exists() for name in included)
