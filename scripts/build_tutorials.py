"""docs/tutorials/*.ipynb from scripts/tutorials/*.md: run on the embedded model, outputs stored.

    python scripts/build_tutorials.py [name ...]

A source is Markdown; each block of Python becomes a cell. Needs nbclient and ipykernel (group dev).
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES, NOTEBOOKS = ROOT / "scripts" / "tutorials", ROOT / "docs" / "tutorials"
COLAB = "https://colab.research.google.com/github/saescope/saescope/blob/main/docs/tutorials"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
INSTALL = 'import sys\n\nif "google.colab" in sys.modules:\n    %pip install -q saescope'
BLOCK = re.compile(r"^```python\n(.*?)\n```$", flags=re.MULTILINE | re.DOTALL)


def cells(name: str) -> list[tuple[str, str]]:
    """Kind and text of each cell: the source's, with a button and an installation before them."""
    text = (SOURCES / f"{name}.md").read_text(encoding="utf-8")
    parts = [part.strip("\n") for part in BLOCK.split(text)]
    kinds = ["code" if i % 2 else "markdown" for i in range(len(parts))]
    button = f"[![Open in Colab]({BADGE})]({COLAB}/{name}.ipynb)"
    own = [(kind, part) for kind, part in zip(kinds, parts, strict=True) if part]
    return [("markdown", button), ("code", INSTALL), *own]


def notebook(name: str) -> dict[str, Any]:
    """The notebook before it is run."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "cells": [_cell(i, kind, text) for i, (kind, text) in enumerate(cells(name))],
    }


def _cell(i: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"id": f"cell-{i}", "cell_type": kind, "metadata": {}, "source": text}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def executed(name: str, home: Path) -> dict[str, Any]:
    """The notebook with its outputs, in a home of its own: no labels and no indexes of ours."""
    import nbformat
    from nbclient import NotebookClient

    os.environ |= {"SAESCOPE_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    node: Any = nbformat.from_dict(notebook(name))
    NotebookClient(node, timeout=900, kernel_name="python3", resources={}).execute(cwd=str(home))
    for cell in node.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _printed(cell.outputs)
    return json.loads(json.dumps(node))


def _printed(outputs: list[Any]) -> list[Any]:
    """What the code printed, as one text; progress on stderr is not kept."""
    text = "".join(each.text for each in outputs if each.get("name") == "stdout")
    return [{"output_type": "stream", "name": "stdout", "text": text}] if text else []


def main() -> None:
    from saescope.names import home as own_home

    models = own_home() / "models"
    for name in sys.argv[1:] or sorted(path.stem for path in SOURCES.glob("*.md")):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "models").symlink_to(models)
            done = executed(name, Path(folder))
        text = json.dumps(done, indent=1, ensure_ascii=False, sort_keys=True)
        (NOTEBOOKS / f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")
        print(f"{name}: {len(done['cells'])} cells", flush=True)


if __name__ == "__main__":
    main()
