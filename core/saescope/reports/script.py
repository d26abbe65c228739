"""Results as a script and as a notebook that use the library alone, and compare."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saescope.ledger import KeptEntry
from saescope.records.report import NotRun
from saescope.reports.code import call, comment, indented, literal
from saescope.reports.comparison import TOLERANCE, TOLERANCE_SHORT, n_values
from saescope.reports.desk import Desk, NoSourceError
from saescope.reports.replays import NOT_AGAIN, REPLAYS, CannotReplayError
from saescope.reports.sources import SAESource, missing_files

DOCSTRING = '''"""{title}

Computes the results again with the library alone: no server, no ledger. For each value it prints
what was stored and what came now; numbers are the same within {tolerance:.1%}. The exit status is 1
where one differs, or where the weights are others. An argument names a file for the comparison.
"""
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One result in a script."""

    entry: KeptEntry
    note: str
    code: str
    n_values: int = 0
    """Lines of its comparison."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a script and a notebook have in common."""

    title: str
    tolerance: float
    versions: Mapping[str, str]
    texts: list[str]
    loads: list[str]
    sections: list[Section]
    not_run: list[NotRun]

    @property
    def n_values(self) -> int:
        """Numbers and words that are compared."""
        return sum(each.n_values for each in self.sections)

    @property
    def begin(self) -> str:
        """The imports, and what is compared first."""
        given = {"tolerance": repr(self.tolerance)}
        lines = ["import sys", "", "import saescope as ss", ""]
        lines += [call("ss.Rerun", [], given, start="check = ")]
        lines += [call("check.versions", [literal(dict(self.versions))])] if self.versions else []
        return "\n".join(lines)


def program(
    entries: Sequence[KeptEntry],
    sources: Mapping[str, SAESource],
    *,
    title: str,
    notes: Mapping[str, str],
) -> Program:
    """The code of results; those that cannot be computed again are named with the reason."""
    desk, sections, not_run = Desk(sources), list[Section](), list[NotRun]()
    for entry in entries:
        note = notes.get(entry.result_id, "")
        try:
            section = _section(entry, desk, note)
        except (CannotReplayError, NoSourceError) as error:
            one = NotRun(result_id=entry.result_id, tool=entry.tool, why=f"{error}")
            not_run.append(one)
            code = call("check.not_run", [*map(literal, (one.result_id, one.tool, one.why))])
            section = Section(entry=entry, note=note, code=code)
        sections.append(section)
    return Program(
        title=title,
        tolerance=_tolerance(entries),
        versions=_versions(entries),
        texts=desk.texts,
        loads=desk.loads,
        sections=sections,
        not_run=not_run,
    )


def _section(entry: KeptEntry, desk: Desk, note: str) -> Section:
    """The lines of one result.

    Raises:
        CannotReplayError, NoSourceError: it cannot be computed again.
    """
    if entry.tool not in REPLAYS:
        raise CannotReplayError(NOT_AGAIN.get(entry.tool, "it computes nothing of an SAE"))
    if not entry.document.get("provenance"):
        raise CannotReplayError("it does not say what it was computed with")
    for handle in entry.saes:
        if handle in desk.sources and (gone := missing_files(desk.sources[handle])):
            raise CannotReplayError(f"{', '.join(gone)} is gone, from which {handle} was loaded")
    replay = REPLAYS[entry.tool](entry, desk)
    compared = call("check.compare", [replay.compared, literal(replay.stored, 0, 23)])
    head = call("with check.result", [literal(entry.result_id), literal(entry.tool)])
    code = f"{head}:\n{indented(replay.code)}\n{indented(compared)}"
    return Section(entry=entry, note=note, code=code, n_values=n_values(replay.stored))


def _tolerance(entries: Sequence[KeptEntry]) -> float:
    dtypes = {(entry.document.get("provenance") or {}).get("dtype") for entry in entries}
    return TOLERANCE if dtypes <= {"float32", None} else TOLERANCE_SHORT


def _versions(entries: Sequence[KeptEntry]) -> dict[str, str]:
    """The versions of the newest result."""
    known = [entry for entry in entries if entry.document.get("provenance")]
    newest = max(known, key=lambda entry: entry.created, default=None)
    return dict(newest.document["provenance"]["versions"]) if newest else {}


def script(program: Program) -> str:
    """The program as a file."""
    title = program.title.replace("\\", " ").replace('"""', "'''")
    parts = [
        DOCSTRING.format(title=comment(title).replace("# ", ""), tolerance=program.tolerance)
        + f"\n{program.begin}"
    ]
    parts += ["\n".join(program.texts)] if program.texts else []
    parts += ["\n".join(program.loads)] if program.loads else []
    for n, each in enumerate(program.sections, 1):
        said = [f"# {n}. {each.entry.tool} {each.entry.result_id}", comment(each.entry.summary)]
        said += [comment(f"Note: {each.note}")] if each.note else []
        parts.append("\n".join([*filter(None, said), each.code]))
    parts.append("sys.exit(check.end(*sys.argv[1:2]))")
    return "\n\n".join(parts) + "\n"


def notebook(program: Program) -> str:
    """The program as a Jupyter notebook: a cell for each result, and its words above it."""
    about = (
        "Computes the results again with the library alone. For each value it prints what was "
        f"stored and what came now; numbers are the same within {program.tolerance:.1%}."
    )
    cells = [_words(f"# {plain(program.title)}\n\n{about}"), _code(program.begin)]
    names = "\n".join([*program.texts, *program.loads])
    cells += [_code(names)] if names else []
    for n, each in enumerate(program.sections, 1):
        head = f"## {n}. {each.entry.tool} `{each.entry.result_id}`"
        said = [head, plain(each.entry.summary), *([plain(each.note)] if each.note else [])]
        cells += [_words("\n\n".join(said)), _code(each.code)]
    cells.append(_code('assert check.end() == 0, "not all is as it was"'))
    content = {
        "cells": [{**cell, "id": f"cell-{n}"} for n, cell in enumerate(cells)],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _code(text: str) -> dict[str, Any]:
    source = text.splitlines(keepends=True)
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source,
    }


def _words(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    one = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    for char in "\\`*_{}[]#|$!":
        one = one.replace(char, f"\\{char}")
    return one.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
