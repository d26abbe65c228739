"""Pages of the manual that stand elsewhere in the repository, and the API page; a hook of
mkdocs.yml."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parameters
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
WEB = "https://github.com/saescope/saescope/blob/main"
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "agent_evals/README.md": "evaluation.md",
}
PARTS = {
    "Load": ("find_saes", "load_model", "load_sae", "peek_sae", "settle", "SAE"),
    "Read": (
        "record",
        "record_activations",
        "as_stack",
        "encode_texts",
        "encode_stack",
        "rank_features",
        "text_passages",
        "dataset_passages",
        "find_firings",
        "index_features",
        "find_index",
    ),
    "Find and name features": (
        "find_by_texts",
        "find_by_tokens",
        "find_by_label",
        "contrast_texts",
        "contrast_models",
        "feature_card",
        "make_quiz",
        "QuizStore",
        "LabelStore",
    ),
    "Explain and change": (
        "attribute",
        "FeatureEdit",
        "intervene",
        "intervene_all",
        "steer",
        "sweep",
    ),
    "Splice": ("run_with_saes", "run_with_cache_with_saes", "edit_activations"),
    "Train and judge": (
        "train_config",
        "TrainConfig",
        "train",
        "ActivationStore",
        "check_sae",
        "evaluate",
        "publish_sae",
    ),
}


def on_files(files: Files, config: Any) -> Files:
    pages = {
        page: _moved((ROOT / source).read_text(encoding="utf-8"))
        for source, page in ELSEWHERE.items()
    }
    pages |= {"api.md": _api(), "decisions.md": _decisions()}
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


def _api() -> str:
    """Every name of `import saescope as ss`, from its docstring."""
    import saescope as ss

    missing = (
        set(ss.__all__) - {"__version__"} - {name for names in PARTS.values() for name in names}
    )
    if missing:
        raise ValueError(
            f"scripts/manual_pages.py: say where on the API page {sorted(missing)} belong"
        )
    said = "".join(f"\n## {part}\n\n" + "\n".join(_entries(names)) for part, names in PARTS.items())
    return (
        "# The library\n\n`import saescope as ss`; all below is `ss.<name>`. Nothing "
        f"heavy is imported before its first use.\n{said}"
    )


def _entries(names: tuple[str, ...]) -> Iterator[str]:

    import saescope as ss

    for name in names:
        thing = getattr(ss, name)
        members = parameters.METHODS.get(name, ())
        yield f"::: {thing.__module__}.{thing.__qualname__}\n    options:\n      members: []\n"
        yield parameters.table(name, thing)
        for member in members:
            yield f"::: {thing.__module__}.{thing.__qualname__}.{member}\n"
            yield parameters.table(f"{name}.{member}", getattr(thing, member))


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
