"""Pages of the manual that stand elsewhere in the repository; a hook of mkdocs.yml. Nothing of
saescope is imported: the manual needs no torch."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
WEB = "https://github.com/saescope/saescope/blob/main"
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "agent_evals/README.md": "evaluation.md",
}


def on_files(files: Files, config: Any) -> Files:
    pages = {
        page: _moved((ROOT / source).read_text(encoding="utf-8"))
        for source, page in ELSEWHERE.items()
    }
    pages["decisions.md"] = _decisions()
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        pages[f"tutorials/{path.stem}.md"] = _notebook(json.loads(path.read_text("utf-8")))
    for page, text in pages.items():
        if not files.get_file_from_path(page):
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ go to the repository, those to notebooks to their pages."""
    inside = re.sub(r"\]\(((?:tutorials/)?\w+)\.ipynb\)", r"](\1.md)", markdown)
    if page.file.src_uri.startswith("tutorials/"):
        return inside
    return re.sub(r"\]\(\.\./([\w./-]+)\)", rf"]({WEB}/\1)", inside)


def _moved(text: str) -> str:
    """Links of a page at the root, as they are seen from docs/."""
    return re.sub(r"\]\((?:\.\./)?docs/", "](", text)


def _notebook(notebook: dict[str, Any]) -> str:
    """A notebook as a page: code, and what it printed."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        printed = ["".join(output["text"]).rstrip() for output in cell.get("outputs", [])]
        parts.extend(f"```text\n{text}\n```" for text in printed)
    title = next(i for i, part in enumerate(parts) if part.startswith("# "))
    return "\n\n".join([parts.pop(title), *parts]) + "\n"


def _decisions() -> str:
    """A list of docs/decisions."""
    lines: list[str] = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{title}](decisions/{path.name})")
    return (
        "# Decisions\n\nWhat would surprise a newcomer, and why it is so.\n\n"
        + "\n".join(lines)
        + "\n"
    )
