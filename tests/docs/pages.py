"""What a document asks its reader to run: code blocks, tool calls and commands, each with the
marker that says how it is checked.

`<!-- check: schema -->` on the line above a block, or at the end of a line with calls:
    schema   valid for the server or the library, but not run: it needs a network, another
             model, or hours
    refused CODE   run, and refused with this code
    theirs   another library's code, as its users have it: only parsed
Without a marker it is run; of commands that are not ours, the programs, targets, files and
addresses are looked up.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "SKILL.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("skill/references/*.md")),
]
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"<!-- check: (?P<check>[^>]+?) -->")
_SPAN = re.compile(r"`([^`]+)`")
_COMMENT = re.compile(r"""^((?:[^"'#]|"[^"]*"|'[^']*')*?)\s+#.*$""")
_CALL = re.compile(r"(?P<name>[a-z_]+)\(.*\)", flags=re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """Something to run; `kind` is "call", "command", or the language of a block."""

    document: str
    line: int
    kind: str
    code: str
    check: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def pieces(document: str) -> list[Piece]:
    """All of a document, in reading order."""
    return pieces_of(document, (ROOT / document).read_text(encoding="utf-8"))


def pieces_of(document: str, text: str) -> list[Piece]:
    """All of a text."""
    prose = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return sorted(
        [*_of_blocks(document, text), *_of_prose(document, prose)], key=lambda piece: piece.line
    )


def _of_blocks(document: str, text: str) -> Iterator[Piece]:
    for match in _FENCE.finditer(text):
        line, code, language = (
            text.count("\n", 0, match.start()) + 2,
            match["code"],
            match["language"],
        )
        above = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        marker = _MARKER.fullmatch(above.strip())
        check = marker["check"] if marker else "run"
        if language == "text":
            yield from (
                Piece(document, line + node.lineno - 1, "call", ast.unparse(node), check)
                for node in _calls_of(code)
            )
        elif language in ("", "bash", "sh", "console"):
            yield from (
                Piece(document, line + i, "command", command, check)
                for i, command in _commands(code)
            )
        else:
            yield Piece(document, line, language, code, check)


def _of_prose(document: str, prose: str) -> Iterator[Piece]:
    for match in _SPAN.finditer(prose):
        code, line = match[1], prose.count("\n", 0, match.start()) + 1
        rest = prose[match.end() :].partition("\n")[0]
        marker = _MARKER.search(rest)
        check = marker["check"] if marker else "run"
        if _CALL.fullmatch(code):
            yield Piece(document, line, "call", " ".join(code.split()), check)
        elif code.startswith("saescope "):
            yield Piece(document, line, "command", " ".join(code.split()), check)
        elif re.match(r"ss\.\w+", code):
            yield Piece(document, line, "library", code, check)


def _calls_of(code: str) -> list[ast.Call]:
    """The calls of a block of tool calls; none of a sample of output."""
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return []
    calls = [
        node.value
        for node in body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    return calls if len(calls) == len(body) else []


def _commands(code: str) -> Iterator[tuple[int, str]]:
    """Each command with its line in the block; continued lines joined, comments and prompts left
    out."""
    line, begun = 0, ""
    for i, text in enumerate(code.splitlines()):
        line = line if begun else i
        begun += text.removesuffix("\\") if text.endswith("\\") else text
        if text.endswith("\\"):
            continue
        command = _COMMENT.sub(r"\1", begun).strip()
        if command and not command.startswith("#"):
            yield line, command
        begun = ""


def arguments_of(call: str) -> tuple[str, dict[str, object]]:
    """Name and arguments of a call as documents write it, JSON's true and false included."""
    node = ast.parse(call.strip(), mode="eval").body
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name), (
        f"not a call of a tool: {call}"
    )
    assert not node.args and all(keyword.arg for keyword in node.keywords), (
        f"a tool takes its arguments by name: {call}"
    )
    return node.func.id, {
        str(keyword.arg): ast.literal_eval(_Words().visit(keyword.value))
        for keyword in node.keywords
    }


class _Words(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        words = {"true": True, "false": False}
        return ast.copy_location(ast.Constant(words[node.id]), node) if node.id in words else node
