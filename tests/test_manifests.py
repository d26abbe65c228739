"""One repository, every client: the manifests at the root say the same, and start the same
server."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import saescope
from saescope_mcp.app import WEBSITE
from saescope_mcp.settings import ELSEWHERE, OF_THE_COMMAND_LINE, PREFIX, Settings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MANIFESTS = ("plugin.json", ".claude-plugin/plugin.json", "gemini-extension.json", "server.json")
STARTERS = {
    "mcp.json": ("${PLUGIN_ROOT}", "${PLUGIN_DATA}"),
    ".claude-plugin/plugin.json": ("${CLAUDE_PLUGIN_ROOT}", "${CLAUDE_PLUGIN_DATA}"),
    "gemini-extension.json": ("${extensionPath}", ""),
}
"""What each client calls the folder of the plugin, and the one that survives its updates."""
INPUT = {"description", "format", "default", "placeholder", "choices", "isSecret"}
"""What the registry's schema of 2025-12-11 knows of a variable, of what we say."""


def manifest(name: str) -> dict[str, Any]:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_has_the_package_version(name: str) -> None:
    assert manifest(name)["version"] == saescope.__version__
    assert [package["version"] for package in manifest(name).get("packages", [])] in (
        [],
        [saescope.__version__],
    )


def test_names_descriptions_and_addresses_agree() -> None:
    plugin = manifest("plugin.json")
    assert (
        plugin["name"] == PROJECT["name"] == "saescope" and plugin["license"] == PROJECT["license"]
    )
    assert (
        plugin["keywords"] == PROJECT["keywords"]
        and plugin["author"]["name"] == PROJECT["authors"][0]["name"]
    )
    assert plugin["repository"] == PROJECT["urls"]["Repository"] == WEBSITE
    claude = manifest(".claude-plugin/plugin.json")
    assert {key: claude[key] for key in plugin if key != "$schema"} == {
        key: plugin[key] for key in plugin if key != "$schema"
    }
    listed = [
        entry
        for name in (".claude-plugin", ".agents/plugins")
        for entry in manifest(f"{name}/marketplace.json")["plugins"]
    ]
    listed.append(manifest("gemini-extension.json"))
    assert {entry["name"] for entry in listed} == {"saescope"}
    assert {entry["description"] for entry in listed if "description" in entry} == {
        plugin["description"]
    }


@pytest.mark.parametrize("name", STARTERS)
def test_every_client_starts_the_launcher_with_uv(name: str) -> None:
    root, data = STARTERS[name]
    servers = manifest(name)["mcpServers"]
    assert [*servers] == ["sae"], "Gemini allows no underscore in it"
    started = servers["sae"]
    assert started["command"] == "uv" and started["args"][:2] == ["run", "--script"]
    assert (
        started["args"][2] == f"{root}/scripts/launch.py"
        and (ROOT / "scripts" / "launch.py").is_file()
    )
    assert started["args"][3:] == (["--data", data] if data else [])


def test_the_portable_manifests_have_no_key_that_their_closed_schemas_lack() -> None:
    known = {
        "$schema",
        "name",
        "version",
        "description",
        "author",
        "homepage",
        "repository",
        "license",
        "keywords",
    }
    assert manifest("plugin.json").keys() <= known | {"extensions"}
    assert manifest("mcp.json").keys() == {"$schema", "mcpServers"}
    assert manifest("mcp.json")["mcpServers"]["sae"].keys() <= {
        "type",
        "command",
        "args",
        "env",
        "cwd",
    }
    assert (
        "1.0.0" in manifest("plugin.json")["$schema"] and "1.0.0" in manifest("mcp.json")["$schema"]
    )


def test_the_registry_entry_names_the_package_and_the_readme_claims_it() -> None:
    server = manifest("server.json")
    assert server["name"] == "io.github.saescope/saescope" and len(server["description"]) <= 100
    assert server["repository"]["url"] == WEBSITE
    [package] = server["packages"]
    assert package["identifier"] == PROJECT["name"] and package["packageArguments"] == [
        {"type": "positional", "value": "serve"}
    ]
    assert f"<!-- mcp-name: {server['name']} -->" in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_registry_entry_has_every_variable_that_a_user_may_set_with_its_default() -> None:
    [package] = manifest("server.json")["packages"]
    listed = {each["name"]: each for each in package["environmentVariables"]}
    fields = {PREFIX + name.upper() for name in Settings.model_fields.keys() - OF_THE_COMMAND_LINE}
    assert listed.keys() == fields | ELSEWHERE.keys() | {"HF_TOKEN", "HF_ENDPOINT"}
    assert len(package["environmentVariables"]) == len(listed)
    assert all(each["description"].endswith(".") for each in listed.values())
    assert listed["HF_TOKEN"]["isSecret"] is True
    defaults = {name: each["default"] for name, each in listed.items() if "default" in each}
    assert Settings.from_env(defaults) == Settings() and defaults["SAESCOPE_MAX_K"] == "100"
    for each in listed.values():
        assert all(isinstance(each.get(key, ""), str) for key in ("default", "placeholder"))
        assert each.get("format", "string") in ("string", "number", "boolean", "filepath")
        assert each.keys() <= {*INPUT, "name"}


def test_the_icon_of_the_registry_entry_is_ours() -> None:
    [icon] = manifest("server.json")["icons"]
    address = "https://raw.githubusercontent.com/saescope/saescope/main/"
    assert icon["mimeType"] == "image/png" and icon["src"].startswith(address)
    with Image.open(ROOT / icon["src"].removeprefix(address)) as picture:
        assert icon["sizes"] == [f"{picture.width}x{picture.height}"] and picture.format == "PNG"


def test_the_settings_page_and_the_registry_entry_are_up_to_date() -> None:
    script = ROOT / "scripts" / "build_settings.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_launcher_runs_on_the_pythons_of_the_package_and_imports_nothing_else() -> None:
    source = (ROOT / "scripts" / "launch.py").read_text(encoding="utf-8")
    said = re.search(r'^# requires-python = "(.+?)"$', source, flags=re.MULTILINE)
    assert said and said[1].startswith(PROJECT["requires-python"])
    nodes = ast.walk(ast.parse(source))
    imported = {name for node in nodes for name in imports(node)}
    assert imported <= sys.stdlib_module_names


def imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [(node.module or "").split(".")[0]] if isinstance(node, ast.ImportFrom) else []


def test_the_icon_is_what_directories_ask_for() -> None:
    with Image.open(ROOT / "assets" / "icon.png") as icon:
        assert icon.format == "PNG" and icon.width == icon.height and 512 <= icon.width <= 2048
    assert os.path.getsize(ROOT / "assets" / "icon.png") < 50_000


def test_the_skill_folder_is_generated_from_its_sources() -> None:
    page = (ROOT / "skills" / "saescope" / "SKILL.md").read_text(encoding="utf-8")
    source = re.sub(r" *<!-- check: [^>]+ -->", "", (ROOT / "SKILL.md").read_text(encoding="utf-8"))
    assert page == re.sub(r"skill/(references|scripts|assets)/", r"\1/", source), (
        "Run `make docs` and commit the result."
    )
    linked = set(re.findall(r"(?:references|scripts|assets)/[\w./-]+\.\w+", page))
    assert {name for name in linked if not (ROOT / "skills" / "saescope" / name).is_file()} == set()
