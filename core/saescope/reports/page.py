"""A report to read: HTML, and Markdown with its pictures beside it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from saescope.ledger import KeptEntry
from saescope.ledger.entry import now
from saescope.render import bar_picture, report_page
from saescope.reports.citations import bibtex
from saescope.reports.data import ReportData
from saescope.reports.script import Program, plain
from saescope.reports.tables import bars, facts, numbers, tables
from saescope.reports.versions import installed

PICTURES = "pictures"
_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
_ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z\u00c0-\u00de\"'(])")
MOST_CALL = 4000


def html(data: ReportData, program: Program) -> str:
    """The report as one file."""
    return report_page(_report(data, program))


def pictures(data: ReportData) -> dict[str, str]:
    """SVG files by their names in the report's folder."""
    drawn = dict[str, str]()
    for entry in data.entries:
        if picture := _picture(entry, inline=False):
            drawn[f"{PICTURES}/{entry.result_id}.svg"] = picture
    return drawn


def markdown(data: ReportData, program: Program, drawn: Mapping[str, str]) -> str:
    """The report as Markdown; strangers' words are shown as they are."""
    report = _report(data, program)
    parts = [f"# {plain(report['title'])}", plain(report["about"])]
    parts += [_said(report["note"])] if report["note"] else []
    if report["not_run"]:
        rows = [
            f"- {_link(e['id'])} {plain(e['tool'])}: {plain(e['why'])}" for e in report["not_run"]
        ]
        parts += [
            "## Not run again",
            "Shown, but neither script nor notebook computes these again:",
        ]
        parts += ["\n".join(rows)]
    parts += ["## What was found"]
    for one in report["results"]:
        note = f"\n  {_said(one['note'])}" if one["note"] else ""
        parts.append(f"- {plain(one['summary'])} {_link(one['id'])}{note}")
    for n, one in enumerate(report["results"], 1):
        parts += _result(n, one, drawn)
    parts += ["## What it was computed with"]
    columns = ["result", "model", "SAE", "weights (sha256)", "dtype", "device", "seed"]
    rows = [[_link(row["id"]), *map(_cell, row["cells"])] for row in report["provenance"]]
    parts += [_grid(columns, rows), f"Versions: {plain(report['versions'])}."]
    parts += ["## References", _fenced(report["bibtex"], "bibtex")]
    return "\n\n".join(parts) + "\n"


def _result(n: int, one: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    head = f'## <a id="r-{one["id"]}"></a>{n}. {plain(one["tool"])} {one["id"]}'
    when = f"{one['created']} UTC" + (f", {one['evidence']}" if one["evidence"] else "")
    parts = [head, plain(when)]
    parts += [f"**Not run again: {plain(one['why'])}.**"] if one["why"] else []
    parts += [plain(one["summary"]), _fenced(one["call"])]
    parts += [f"> {plain(warning)}" for warning in one["warnings"]]
    name = f"{PICTURES}/{one['id']}.svg"
    parts += [f"![{plain(one['tool'])} {one['id']}]({name})"] if name in drawn else []
    if one["facts"]:
        rows = [[_cell(name), _cell(value)] for name, value in one["facts"]]
        parts.append(_grid(["value", ""], rows))
    for table in one["tables"]:
        rows = [[_cell(cell) for cell in row] for row in table.rows]
        parts += [f"### {plain(table.name)}", _grid([*map(_cell, table.columns)], rows)]
        parts += [f"{table.n_more} more rows are in report.json."] if table.n_more else []
    return parts


def _report(data: ReportData, program: Program) -> dict[str, Any]:
    """The report as plain data."""
    why = {each.result_id: each.why for each in program.not_run}
    code = {each.entry.result_id: each.code for each in program.sections}
    ran = len(data.entries) - len(why)
    about = (
        f"{len(data.entries)} results, {ran} of them run again by rerun.py and rerun.ipynb "
        f"({program.n_values} values, numbers within {program.tolerance:.1%}). "
        f"Written by saescope {installed('saescope')}, {now()[:10]}."
    )
    versions = ", ".join(f"{name} {number}" for name, number in program.versions.items())
    return {
        "title": data.title,
        "about": about,
        "note": linked(data.note, data.entries),
        "not_run": [
            {"id": each.result_id, "tool": each.tool, "why": each.why} for each in program.not_run
        ],
        "results": [
            _shown(entry, data, why.get(entry.result_id, ""), code[entry.result_id])
            for entry in data.entries
        ],
        "provenance": [row for entry in data.entries for row in _provenance(entry)],
        "versions": versions or "not told",
        "bibtex": bibtex(data.entries, data.sources),
    }


def _shown(entry: KeptEntry, data: ReportData, why: str, code: str) -> dict[str, Any]:
    return {
        "id": entry.result_id,
        "tool": entry.tool,
        "created": entry.created.replace("T", " ").partition("+")[0],
        "evidence": entry.evidence,
        "summary": entry.summary,
        "note": linked(data.notes.get(entry.result_id, ""), [entry]),
        "why": why,
        "call": call_of(entry),
        "warnings": [str(each) for each in entry.document.get("warnings", [])],
        "picture": _picture(entry, inline=True),
        "facts": facts(entry.document),
        "tables": tables(entry.document),
        "code": "" if why else code,
    }


def call_of(entry: KeptEntry) -> str:
    """The call of the tool, without what was left at its default of nothing."""
    asked = {
        name: value for name, value in entry.arguments.items() if value not in ("", [], None, False)
    }
    words = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in asked.items()]
    text = f"{entry.tool}({', '.join(words)})"
    return text if len(text) <= MOST_CALL else f"{text[:MOST_CALL]}…"


def linked(note: str, entries: Sequence[KeptEntry]) -> list[dict[str, Any]]:
    """A note's sentences, each with the results that hold its numbers, and the numbers that none
    of them holds."""
    known = {entry.result_id: [*numbers([entry.document, entry.arguments])] for entry in entries}
    parts = list[dict[str, Any]]()
    for text in filter(None, _ENDS.split(note.strip())):
        asked = [found[0] for found in _NUMBER.finditer(text)]
        holding = {n: [i for i, own in known.items() if _holds(own, n)] for n in asked}
        links = dict.fromkeys(i for ids in holding.values() for i in ids[:1])
        if asked and not links and len(entries) == 1:
            links = dict.fromkeys(known)
        unknown = [n for n, ids in holding.items() if not ids]
        parts.append({"text": text, "links": [*links], "unknown": unknown})
    return parts


def _holds(values: Sequence[float], said: str) -> bool:
    """Whether one of the values is this number as it is written, or as a percentage of it."""
    plain_text = said.replace(",", "").replace("\u2212", "-")
    wanted, digits = float(plain_text), len(plain_text.partition(".")[2].partition("e")[0])
    if "e" in plain_text:
        return any(abs(value - wanted) <= 0.05 * abs(wanted) for value in values)
    signed = plain_text[0] in "+-"
    return any(
        round(own if signed else abs(own), digits) == wanted
        for value in values
        for own in (value, 100 * value)
    )


def _picture(entry: KeptEntry, *, inline: bool) -> str:
    shown = bars(entry.tool, entry.document)
    if shown is None:
        return ""
    title = f"{entry.tool} {entry.result_id}: {shown.what}"
    return bar_picture(title, shown.labels, shown.values, span=shown.controls, inline=inline)


def _provenance(entry: KeptEntry) -> list[dict[str, Any]]:
    origin = entry.document.get("provenance")
    if not origin:
        return []
    used = [(origin["sae"], origin["weights_hash"])] if origin.get("sae") else []
    used += [(each["sae"], each["weights_hash"]) for each in origin.get("saes", [])]
    seed = "none" if origin.get("seed") is None else str(origin["seed"])
    model = f"{origin['model']} ({origin['revision']})"
    return [
        {
            "id": entry.result_id,
            "cells": [model, sae, hashed, origin["dtype"], origin["device"], seed],
        }
        for sae, hashed in used
    ]


def _said(parts: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(
        " ".join(
            [
                plain(part["text"]),
                *map(_link, part["links"]),
                *(f"**\\[no result here has {plain(n)}\\]**" for n in part["unknown"]),
            ]
        )
        for part in parts
    )


def _link(result_id: str) -> str:
    return f"[\\[{result_id}\\]](#r-{result_id})"


def _cell(text: object) -> str:
    return plain(str(text))


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _fenced(text: str, language: str = "") -> str:
    """Text that Markdown leaves alone, whatever fences are in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
