"""The call of a tool, as a reply writes it, as the command that is typed in a shell."""

import ast
import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.cli.flags import flag_of, item_of

_TOOLS = {tool.name: tool for tool in ALL_TOOLS}


def program() -> str:
    """What the person typed to start this, or the plain name where a shell finds it by that."""
    typed, found = Path(sys.argv[0]), shutil.which("saescope")
    is_found = found is not None and typed.exists() and typed.samefile(found)
    return "saescope" if is_found or typed.name != "saescope" else str(typed)


def as_command(call: str) -> str:
    """`tool(k=3)` as `saescope tool --k 3`; what is no call of a tool stays as it is."""
    read = _read(call)
    if read is None:
        return call
    tool, arguments = read
    fields = _TOOLS[tool].request.model_fields
    kinds = {info.alias or name: info.annotation for name, info in fields.items()}
    if not arguments.keys() <= kinds.keys():
        return call
    words = [program(), tool.replace("_", "-")]
    for name, value in arguments.items():
        words += _words(name, kinds[name], value)
    return shlex.join(words)


def _read(call: str) -> tuple[str, dict[str, Any]] | None:
    """The tool and its arguments, whose values are JSON."""
    try:
        made = ast.parse(call, mode="eval").body
        if not (isinstance(made, ast.Call) and isinstance(made.func, ast.Name)):
            return None
        pieces = {each.arg: ast.get_source_segment(call, each.value) for each in made.keywords}
        arguments = {str(name): json.loads(piece or "") for name, piece in pieces.items()}
    except (SyntaxError, ValueError):
        return None
    return (made.func.id, arguments) if made.func.id in _TOOLS and not made.args else None


def _words(name: str, kind: Any, value: Any) -> list[str]:
    flag = flag_of(name, kind)
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if not isinstance(value, list):
        return [flag, str(value)]
    if value and all(isinstance(each, int | float) for each in value):
        return [flag, ",".join(str(each).lower() for each in value)]
    listed = [_item(each) if item_of(kind) else str(each) for each in value]
    return [word for each in listed for word in (flag, each)]


def _item(item: Mapping[str, Any]) -> str:
    """An edit in one word, as `flags` reads it."""
    sae = f"{item['sae']}#" if item.get("sae") else ""
    strength = f"={item['strength']}" if "strength" in item else ""
    mode = f":{item['mode']}" if "mode" in item else ""
    places = ",".join(map(str, item.get("positions", [])))
    return f"{sae}{item['feature']}{strength}{mode}{f'@{places}' if places else ''}"
