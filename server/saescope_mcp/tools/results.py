"""results."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mcp.types import ToolAnnotations

from saescope.errors import ArgumentError
from saescope.ledger import KeptEntry, Ledger, ResultFilter
from saescope.names import nearest
from saescope.records.ledger import Investigation, KeptResult
from saescope_mcp.binding import next_call, nothing
from saescope_mcp.binding.document import compact, in_short
from saescope_mcp.groups import Group
from saescope_mcp.replies import RESULT_APP, Tool
from saescope_mcp.replies.tool import by_itself
from saescope_mcp.schemas.common import Reply
from saescope_mcp.schemas.record import InvestigationRow, Results, ResultsReply
from saescope_mcp.state import AppState
from saescope_mcp.state.quizzes import void_open_quizzes

RESULT_URI = "sae://result/{result_id}"
TOOLS_LIST = Path(__file__).parents[1] / "tools.json"
"""The shipped list of tools."""
MOST_ROWS = 5
"""How many rows of each list a result in short has."""
AROUND_BYTES = 1500
"""What a reply has beside the document."""
LEAST_CHARS = 20
"""The length from which on a text may be that of a quiz."""


async def results(state: AppState, request: Results) -> ResultsReply:
    """What was measured before: brings a result back by its result_id, whole if "detailed", or
    lists results by words, tool, SAE or day. With investigation and add, remove or note it keeps a
    named list of them."""
    if request.result_id:
        return await _one(state, request)
    return await _several(state, request)


async def brought(state: AppState, result_id: str) -> KeptEntry:
    """A result as it was kept.

    Raises:
        NotFoundError: RESULT_NOT_FOUND.
        FormatError: RESULT_DAMAGED.
        ResourceError: LEDGER_UNAVAILABLE.
    """
    entry = await state.keeper.ask(Ledger.bring, result_id)
    await void_shown(state, [entry])
    return entry


async def void_shown(state: AppState, entries: Iterable[KeptEntry]) -> None:
    """Void the quizzes that ask today about a text that these results show."""
    said = (text for each in entries for text in _texts((each.arguments, each.document)))
    texts = [text for text in said if len(text) > LEAST_CHARS]
    await state.workers.run(partial(void_open_quizzes, texts))


def whole_document(entry: KeptEntry) -> dict[str, Any]:
    """The document of a kept result with the id under which it is kept."""
    return entry.document | {"result_id": entry.result_id}


async def _one(state: AppState, request: Results) -> ResultsReply:
    entry = await brought(state, request.result_id)
    document, room = whole_document(entry), 3 * state.settings.max_result_tokens - AROUND_BYTES
    if request.response_format == "concise":
        document = _with_rows(in_short(document, Reply), MOST_ROWS)
    fitted, cut, warnings = document, list[str](), list[str]()
    most = max([len(item) for item in _lists(document)], default=0)
    arguments = entry.arguments
    if len(compact([fitted, arguments]).encode()) > room:
        arguments = _cut_texts(arguments)
        if arguments != entry.arguments:
            warnings.append(f"Long arguments were cut: {_whole_at(entry)}")
    while len(compact([fitted, arguments]).encode()) > room and most > 1:
        most //= 2
        fitted = _with_rows(document, most)
        cut = [f"Lists were cut to {most} rows: {_whole_at(entry)}"]
    return ResultsReply(
        summary=f"Result {entry.result_id}, a call of {entry.tool} of {entry.created} (UTC).",
        warnings=[*cut, *warnings, *_off(state)],
        next=entry.document.get("next", [])[:1],
        total=1,
        results=[_row(entry)],
        arguments=arguments,
        document=fitted,
    )


def _whole_at(entry: KeptEntry) -> str:
    return f"the resource {RESULT_URI.format(result_id=entry.result_id)} has all."


def _row(entry: KeptEntry) -> KeptResult:
    return KeptResult(
        result_id=entry.result_id,
        created=entry.created,
        tool=entry.tool,
        about=entry.saes,
        evidence=entry.evidence,
        says=entry.summary,
    )


async def _several(state: AppState, request: Results) -> ResultsReply:
    _check_tool(request.tool.replace("-", "_"))
    if request.text:
        await state.workers.run(partial(void_open_quizzes, [request.text]))
    rows, total, named = await state.keeper.ask(_listed, request)
    end = request.offset + len(rows)
    more = end if end < total else None
    asked = request.model_dump(
        include={"text", "tool", "sae", "day", "investigation", "limit"}, exclude_defaults=True
    )
    onward = [next_call("results", **asked, offset=more)] if more else []
    first = [next_call("results", result_id=rows[0].result_id)] if rows else []
    return ResultsReply(
        summary=_summary(request, total, named),
        warnings=_off(state),
        next=[*first, *onward],
        total=total,
        truncated=more is not None,
        next_offset=more,
        results=rows,
        investigations=named,
    )


def _check_tool(name: str) -> None:
    """Raises ArgumentError: INVALID_CHOICE: no tool has this name."""
    known = [*json.loads(TOOLS_LIST.read_text(encoding="utf-8"))] if name else []
    if name and name not in known:
        close = nearest(name, known)
        raise ArgumentError(
            f"There is no tool {name!r}.",
            code="INVALID_CHOICE",
            field="tool",
            got=name,
            allowed=", ".join(close or known),
            hint=f'Use tool="{close[0]}".' if close else "Use one of these, or leave it out.",
        )


def _listed(
    ledger: Ledger, request: Results
) -> tuple[list[KeptResult], int, list[InvestigationRow]]:
    """The page, how many there are, and the investigation, or all of them on the first page of a
    list of everything."""
    lists, one = ledger.investigations, None
    if request.changes:
        for result_id in request.add:
            ledger.bring(result_id)
        if request.remove:
            lists.remove(request.investigation, request.remove)
        if request.add or request.note:
            lists.add(request.investigation, request.add, note=request.note)
    if request.investigation:
        one = lists.of(request.investigation)
    wanted = ResultFilter(
        text=request.text,
        tool=request.tool.replace("-", "_"),
        sae=request.sae,
        day=request.day,
    )
    among = one.result_ids if one else None
    rows, total = ledger.find(wanted, among=among, limit=request.limit, offset=request.offset)
    named = [one] if one else lists.all() if wanted == ResultFilter() and not request.offset else []
    return _noted(rows, one), total, [_counted(ledger, each) for each in named]


def _noted(rows: list[KeptResult], one: Investigation | None) -> list[KeptResult]:
    notes = dict(zip(one.result_ids, one.notes, strict=True)) if one else {}
    return [replace(row, note=notes.get(row.result_id, "")) for row in rows]


def _counted(ledger: Ledger, each: Investigation) -> InvestigationRow:
    there, _ = ledger.find(among=each.result_ids, limit=len(each.result_ids))
    gone = {*each.result_ids} - {row.result_id for row in there}
    return InvestigationRow(
        name=each.name, n=len(each.result_ids), note=each.note, gone=sorted(gone)
    )


def _summary(request: Results, total: int, named: list[InvestigationRow]) -> str:
    count = f"{total} result{'' if total == 1 else 's'}"
    if request.investigation:
        return f"Investigation {request.investigation}: {count}."
    lists = f"; investigations: {', '.join(each.name for each in named)}" if named else ""
    return f"{count} kept that fit{lists}."


def _off(state: AppState) -> list[str]:
    if state.settings.ledger:
        return []
    return ["SAESCOPE_LEDGER is off: no new result is kept."]


def _lists(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, list):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _lists(item)


def _with_rows(value: Any, most: int) -> Any:
    """The value with the first rows of its lists."""
    if isinstance(value, dict):
        return {name: _with_rows(item, most) for name, item in value.items()}
    return [_with_rows(item, most) for item in value[:most]] if isinstance(value, list) else value


def _cut_texts(value: Any, most: int = 300) -> Any:
    """Arguments without the rest of their long texts and lists."""
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[: most - 1]}…"
    if isinstance(value, dict):
        return {name: _cut_texts(item, most) for name, item in value.items()}
    return (
        [_cut_texts(item, most) for item in value[:MOST_ROWS]] if isinstance(value, list) else value
    )


def _texts(value: Any) -> Iterator[str]:
    """All texts of a result; tokens in a row are a text too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        tokens = [row.get("token") for row in value if isinstance(row, dict)]
        yield "".join(token for token in tokens if isinstance(token, str))
        for item in value:
            yield from _texts(item)


TOOLS = [
    Tool(
        results,
        Results,
        ToolAnnotations(
            title="Earlier results",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
        group=Group.RECORD,
        keeps=nothing,
        prepare=by_itself,
        app=RESULT_APP,
    )
]
