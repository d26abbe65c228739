"""A tool's document for a person's eyes."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from saescope_mcp.cli.cells import render
from saescope_mcp.cli.renderers import RENDERERS
from saescope_mcp.cli.typed import as_command, error_in_shell, help_in_shell, in_shell
from saescope_mcp.cli.verbs import Verb
from saescope_mcp.cli.warm import CommandOutcome


def show(
    outcome: CommandOutcome,
    console: Console,
    verb: Verb | None = None,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Summary first, then what the tool's renderer shows, warnings, and what to do next, with what
    was given where that names it as "..."."""
    document = outcome.document
    if outcome.is_error:
        from saescope_mcp.binding import what_is_wrong

        said = error_in_shell(document, verb)
        console.print(f"[bold red]{said['code']}[/] {escape(what_is_wrong(said))}")
        console.print(f"[bold]Next:[/] {escape(said['hint'])}", soft_wrap=True)
        return
    console.print(escape(_typed(document["summary"], verb)), style="bold")
    if verb:
        console.print()
        RENDERERS[verb.tool](document, console)
        _show_result(document, console)
    else:
        render(document, console)
    for warning in document["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(_typed(warning, verb))}")
    if document["evidence"]:
        result = f"   result: {document['result_id']}" if document["result_id"] else ""
        console.print(f"evidence: {document['evidence']}{result}", style="dim")
    for call in document["next"]:
        console.print(f"[dim]next:[/] {escape(as_command(call, given or {}))}", soft_wrap=True)


def _show_result(document: Mapping[str, Any], console: Console) -> None:
    """What came of a job, or is brought back, as its own tool shows it."""
    kept = document.get("document")
    tool = document["results"][0]["tool"] if kept else document.get("tool")
    renderer, result = RENDERERS.get(tool or ""), kept or document.get("result")
    if renderer and result:
        metrics = document.get("metrics")
        renderer({**result, "metrics": metrics} if metrics else result, console)


def _typed(text: str, verb: Verb | None) -> str:
    return help_in_shell(text, verb) if verb else in_shell(text)
