"""What was kept: a list of results, or the call of one; and claims that rest on them."""

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


def claim(document: Document, console: Console) -> None:
    """The sentence as it may be written, what each result says of it, and what it still lacks."""
    if document["printed"]:
        console.print(document["printed"], markup=False)
    for reason in document["reasons"]:
        console.print(f"- {reason}", markup=False)
    named = [_check(each) for each in document["checks"]]
    rows(console, named, title="results")
    rows(console, [_check(each) for each in document["contradicting"]], title="against it")
    rows(console, [dict(each) for each in document["missing"]], title="missing")
    looks = document["looks"]
    left = {"p": text_of(looks["p"]), "after the looks": text_of(looks["corrected"])}
    console.print()
    tried = f"{looks['n_tests']}, of {looks['n_features']} features on {looks['n_prompts']} prompts"
    facts(console, {"looks": tried, **(left if looks["p"] is not None else {})})


def report(document: Document, console: Console) -> None:
    """The files that were written; of a check what differs, and on what it rests."""
    facts(console, dict(document.get("files") or {}))
    rows(console, [_moved(each) for each in document.get("moved") or []], title="differs")
    changed = document.get("changed") or []
    rows(console, [_changed(each) for each in changed], title="changed since")
    for name, title in (("failed", "stopped with an error"), ("not_run", "NOT run again")):
        left = [
            {"result": e["result_id"], "tool": e["tool"], "why": e["why"]}
            for e in document.get(name) or []
        ]
        rows(console, left, title=title)


def _moved(row: Document) -> dict[str, Any]:
    shown = {"result": row["result_id"], "value": row["name"]}
    return shown | {name: text_of(row[name]) for name in ("stored", "now", "moved")}


def _changed(row: Document) -> dict[str, Any]:
    return {"what": row["what"], "stored": row["stored"], "now": row["now"]}


def _check(row: Document) -> dict[str, Any]:
    return {"result": row["result_id"], "it": row["counts"], "said": row["why"]}


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
