"""Write skills/saescope/, the folder that clients install, from SKILL.md and skill/; with --check
only say whether it is up to date."""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE, TARGET = ROOT / "skill", ROOT / "skills" / "saescope"
PARTS = ("references", "scripts", "assets")
"""Folders of skill/ that a user's agent needs; trigger_queries.json stays here."""
MARKER = re.compile(rb"(?m)^<!-- check: [^>]+ -->\n| *<!-- check: [^>]+ -->")
"""How a call or block is tested (tests/docs/pages.py): nothing for a reader."""


def wanted() -> dict[str, bytes]:
    """Content of each file by its path below skills/saescope/; links of the front page lose their
    "skill/"."""
    page = (ROOT / "SKILL.md").read_text(encoding="utf-8")
    for part in PARTS:
        page = page.replace(f"skill/{part}/", f"{part}/")
    files = {"SKILL.md": page.encode()}
    for part in PARTS:
        paths = (
            path
            for path in (SOURCE / part).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        )
        files |= {path.relative_to(SOURCE).as_posix(): path.read_bytes() for path in sorted(paths)}
    return {
        name: MARKER.sub(b"", content) if name.endswith(".md") else content
        for name, content in files.items()
    }


def there() -> dict[str, bytes]:
    return {
        path.relative_to(TARGET).as_posix(): path.read_bytes()
        for path in TARGET.rglob("*")
        if path.is_file()
    }


def main() -> None:
    files = wanted()
    if sys.argv[1:] == ["--check"]:
        stale = sorted(
            name for name in files.keys() | there().keys() if files.get(name) != there().get(name)
        )
        if stale:
            sys.exit(
                "skills/saescope/ does not match SKILL.md and skill/: "
                f"{', '.join(stale)}. Run `make docs` and commit the result."
            )
        return
    shutil.rmtree(TARGET, ignore_errors=True)
    for name, content in files.items():
        (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
        (TARGET / name).write_bytes(content)


if __name__ == "__main__":
    main()
