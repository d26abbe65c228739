"""What was kept: a list of results, or the call of one."""

from typing import Any

from rich.console import Console

from saescope_mcp.cli.cells import text_of
from saescope_mcp.cli.renderers.parts import Document, facts, rows


def results(document: Document, console: Console) -> None:
    """The list; of one result its call, which its own display follows."""
    if document["document"]:
        facts(console, _call(document["arguments"]))
        console.print()
        console.print(document["document"]["summary"], style="bold", markup=False)
        return
    rows(console, [_line(each) for each in document["results"]])
    named = [_investigation(each) for each in document.get("investigations", [])]
    rows(console, named, title="investigations")


def _line(row: Document) -> dict[str, Any]:
    note = {"note": row["note"]} if row["note"] else {}
    return {
        "result": row["result_id"],
        "when": row["created"][:16].replace("T", " "),
        "tool": row["tool"],
        "SAE": ", ".join(row["about"]) or None,
        "said": row["says"],
        **note,
    }


def _investigation(row: Document) -> dict[str, Any]:
    gone = {"gone": ", ".join(row["gone"])} if row["gone"] else {}
    return {"name": row["name"], "results": row["n"], "note": row["note"], **gone}


def _call(arguments: Document | None) -> dict[str, str | None]:
    """What the call named, without what is empty."""
    given = {
        name: value for name, value in (arguments or {}).items() if value not in ("", [], None)
    }
    return {name: text_of(value, name) for name, value in given.items()}
