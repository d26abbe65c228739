"""Write build/saescope.mcpb, the bundle that Claude Desktop installs with a double click: the
launcher, the sources that it installs, and a manifest made of the other manifests here."""

import json
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "build" / "saescope.mcpb"
FOLDERS = ("core", "server", "skills")
FILES = (
    "CITATION.cff",
    "LICENSE",
    "NOTICE",
    "README.md",
    "assets/icon.png",
    "constraints.txt",
    "pyproject.toml",
    "scripts/launch.py",
)
DATA = "${HOME}/.saescope-desktop"
"""Outside the bundle's own folder, which an update replaces."""
LONG = (
    "The first start connects at once and installs saescope in the background: about 0.4 GB to "
    "download, 3 GB with an NVIDIA GPU. A call says how far it is. Then ask, for example: Load the "
    'default SAE. Why does the model continue "The capital of France is" with " Paris"?'
)


def manifest() -> dict[str, Any]:
    """What the host reads; the schema of version 0.4 is closed."""
    plugin, tools = _read("plugin.json"), _read("server/saescope_mcp/tools.json")
    kept = ("name", "version", "description", "author", "homepage", "license", "keywords")
    launch = ["run", "--script", "${__dirname}/scripts/launch.py", "--data", DATA]
    settings = {
        "SAESCOPE_OFFLINE": "${user_config.offline}",
        "SAESCOPE_READ_ROOTS": "${user_config.read_root}",
        "HF_TOKEN": "${user_config.hf_token}",
    }
    return {
        "$schema": "https://raw.githubusercontent.com/anthropics/mcpb/main/schemas/"
        "mcpb-manifest-v0.4.schema.json",
        "manifest_version": "0.4",
        **{key: plugin[key] for key in kept},
        "display_name": "saescope",
        "long_description": LONG,
        "repository": {"type": "git", "url": plugin["repository"]},
        "support": f"{plugin['repository']}/issues",
        "icon": "assets/icon.png",
        "server": {
            "type": "uv",
            "entry_point": "scripts/launch.py",
            "mcp_config": {"command": "uv", "args": launch, "env": settings},
        },
        "tools": [{"name": name, "description": _first(each)} for name, each in tools.items()],
        "prompts_generated": True,
        "compatibility": {
            "platforms": ["darwin", "win32", "linux"],
            "runtimes": {"python": ">=3.11"},
        },
        "user_config": _asked(),
    }


def _asked() -> dict[str, Any]:
    """What the host asks at installation; every default works."""
    return {
        "read_root": {
            "type": "directory",
            "title": "Folder to read",
            "description": "Texts, SAEs and models of yours are read from below this folder only.",
            "default": "${HOME}",
        },
        "offline": {
            "type": "boolean",
            "title": "Never use the network",
            "description": "Only what is on this machine is loaded once saescope is installed.",
            "default": False,
        },
        "hf_token": {
            "type": "string",
            "title": "Hugging Face token",
            "description": "Needed for gated models such as Gemma only.",
            "sensitive": True,
            "default": "",
        },
    }


def _read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def _first(tool: dict[str, Any]) -> str:
    """A description's first sentence."""
    return tool["description"].partition(". ")[0].rstrip(".") + "."


def bundled() -> list[Path]:
    """Relative to the repository, in a fixed order."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    kept = [path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts]
    return sorted([*kept, *map(Path, FILES)])


def build() -> None:
    """The same sources give the same bytes."""
    BUNDLE.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(BUNDLE, "w", zipfile.ZIP_DEFLATED) as bundle:
        contents = {path.as_posix(): (ROOT / path).read_bytes() for path in bundled()}
        said = json.dumps(manifest(), indent=2, ensure_ascii=False) + "\n"
        for name, content in ({"manifest.json": said.encode()} | contents).items():
            entry = zipfile.ZipInfo(name)  # dated 1980, whenever it is made
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, content)


if __name__ == "__main__":
    build()
    print(f"{BUNDLE.relative_to(ROOT)}: {BUNDLE.stat().st_size / 1e6:.1f} MB")
