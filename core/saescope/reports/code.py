"""Values and calls as Python that a person would write: short ones on a line, long ones opened."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 96


def literal(value: Any, indent: int = 0, used: int = 0) -> str:
    """A value as source text that begins after `used` characters of a line indented by `indent`;
    characters that cannot be seen are escaped."""
    flat = _flat(value)
    if len(flat) + max(indent, used) <= WIDTH or not isinstance(value, Mapping | list | tuple):
        return flat
    pad = " " * (indent + 4)
    rows = (
        [f"{_text(name)}: " for name in value] if isinstance(value, Mapping) else [""] * len(value)
    )
    items = [*value.values()] if isinstance(value, Mapping) else [*value]
    opened = [
        f"{pad}{name}{literal(item, indent + 4, indent + 5 + len(name))},\n"
        for name, item in zip(rows, items, strict=True)
    ]
    first, last = _brackets(value)
    return f"{first}\n{''.join(opened)}{' ' * indent}{last}"


def call(
    name: str,
    given: Sequence[str],
    named: Mapping[str, str] | None = None,
    *,
    indent: int = 0,
    start: str = "",
) -> str:
    """A call whose arguments are source text already, after `start` on a line."""
    words = [*given, *(f"{key}={value}" for key, value in (named or {}).items())]
    flat = f"{start}{name}({', '.join(words)})"
    if "\n" not in flat and len(flat) + indent <= WIDTH:
        return flat
    pad = " " * (indent + 4)
    rows = "".join(f"{pad}{_shifted(word)},\n" for word in words)
    return f"{start}{name}(\n{rows}{' ' * indent})"


def indented(text: str, by: int = 4) -> str:
    """Source text further to the right; there are no texts of several lines in it."""
    return "\n".join(f"{' ' * by}{line}" if line else line for line in text.split("\n"))


def comment(text: str, width: int = WIDTH) -> str:
    """Words as lines of a comment."""
    lines, line = list[str](), ""
    for word in " ".join(_seen(text).split()).split(" "):
        if line and len(line) + len(word) + 3 > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join(f"# {each}" for each in [*lines, line] if each)


def _shifted(word: str) -> str:
    return word.replace("\n", "\n    ")


def _brackets(value: Any) -> str:
    return "{}" if isinstance(value, Mapping) else "()" if isinstance(value, tuple) else "[]"


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(str(n))}: {_flat(item)}' for n, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' * (len(value) == 1)})"
    return repr(value)


def _text(text: str) -> str:
    # repr escapes what does not print, such as characters that turn the direction of a line
    written = repr(text)
    if written[0] == "'" and '"' not in text:
        inside = written[1:-1].replace("\\'", "'")
        return f'"{inside}"'
    return written


def _seen(text: str) -> str:
    """Text without characters that do not print."""
    return "".join(char if char.isprintable() else " " for char in text)
