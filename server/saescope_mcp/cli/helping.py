"""Help in groups, with what is required marked and a command that works; plain text, since rich's
help cuts names and numbers on a narrow terminal."""

import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from saescope_mcp.cli.typed import WINDOWS, help_in_shell, program
from saescope_mcp.cli.verbs import EXAMPLES, GROUPS, LOADING, VERBS, Verb

_GROUP_TITLES = {
    "start": "Start",
    "read": "Read",
    "explain": "Explain",
    "circuits": "Explain",
    "know": "Know a feature",
    "steer": "Steer",
    "bench": "The scientist's bench",
    "train": "Train",
    "judge": "Judge and publish",
    "publish": "Judge and publish",
    "record": "The record",
    "serve": "Serve",
}
_WIDEST = max(len(name) for names in GROUPS.values() for name in names)
_ALWAYS = ("open_it", "as_json", "help")


def _level(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """With what they say in one column through all groups."""
    return [(f"{name:<{_WIDEST}}", said) for name, said in rows]


_Context: Any = TyperGroup.context_class


class Shell(_Context):
    """A call of the program, under the name that the person typed; completion keeps the plain
    one."""

    @property
    def command_path(self) -> str:
        return program() if self.parent is None else super().command_path


class Tools(TyperGroup):
    """All commands, by what a person wants to do; groups of one title stand together."""

    context_class = Shell

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        by_title: dict[str, list[str]] = {}
        for group, names in GROUPS.items():
            by_title.setdefault(_GROUP_TITLES[group], []).extend(names)
        for title, names in by_title.items():
            commands = [self.get_command(ctx, name.replace("_", "-")) for name in names]
            rows = [(each.name or "", each.short_help or "") for each in commands if each]
            with formatter.section(title):
                formatter.write_dl(_level(rows))


class ToolCommand(TyperCommand):
    """One tool: its own options, then which SAE, then what every command has."""

    @property
    def verb(self) -> Verb:
        return VERBS[(self.name or "").replace("-", "_")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        params: dict[str | None, Any] = {param.name: param for param in self.get_params(ctx)}
        for title, names in self._sections().items():
            shown = [params[name].get_help_record(ctx) for name in names if name in params]
            if rows := [(row[0], help_in_shell(row[1], self.verb)) for row in shown if row]:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=28)

    def _sections(self) -> dict[str, Sequence[str]]:
        loading = LOADING if self.verb.loads_first else ()
        alone = [names[0] for names in self.verb.needed if len(names) == 1]
        several = [names for names in self.verb.needed if len(names) > 1]
        said = {*loading, *_ALWAYS, *alone, *(name for names in several for name in names)}
        return {
            "Required": alone,
            **{
                "Required, one of these"
                if len(names) > 4
                else f"Required, one of {_these(names)}": names
                for names in several
            },
            "Options": [name for param in self.params if (name := param.name or "") not in said],
            "Which SAE (with neither --sae nor one of these: the embedded one)": loading,
            "Of every command": _ALWAYS,
        }

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write_paragraph()
        formatter.write(example_of(self.verb, formatter.width))


def _these(names: Sequence[str]) -> str:
    """Told apart where a command has two such choices."""
    return " or ".join(f"--{name.replace('_', '-')}" for name in names)


def example_of(verb: Verb, width: int = 80) -> str:
    """A command that works, on lines that a shell takes as one; those of Windows have no mark for
    that in common."""
    words = shlex.split(EXAMPLES[verb.tool])
    pieces: list[str] = [program()]
    for word in words:
        quoted = _quoted(word)
        apart = word.startswith("--") or len(pieces) == 1
        pieces = [*pieces, quoted] if apart else [*pieces[:-1], f"{pieces[-1]} {quoted}"]
    lines = [f"  {' '.join(pieces[:2])}"]
    for piece in pieces[2:]:
        if len(lines[-1]) + len(piece) + 3 > width and not WINDOWS:
            lines[-1] += " \\"
            lines.append(f"    {piece}")
        else:
            lines[-1] += f" {piece}"
    return textwrap.dedent(f"Example:\n{chr(10).join(lines)}\n")


def _quoted(word: str) -> str:
    """In double quotes where it needs any: an apostrophe in a sentence is easier to read there."""
    safe = shlex.quote(word) == word
    return word if safe else f'"{word}"' if not set(word) & set('"$`\\!') else shlex.quote(word)
