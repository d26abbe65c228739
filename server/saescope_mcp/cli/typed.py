"""What a reply says in calls of tools, as it is typed in a shell: the one place that translates."""

import ast
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from saescope_mcp.cli.flags import flag_of, is_of_items
from saescope_mcp.cli.verbs import LOADING, VERBS, Schema, Verb

WINDOWS = os.name == "nt"
_TOOL_CALL = re.compile(rf"\b(?:{'|'.join(VERBS)})\(")
_TOOL_NAME = re.compile(rf"\b(?:{'|'.join(name for name in VERBS if '_' in name)})\b")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUE = rf"{_QUOTED}|\[[^\]]*\]|true\b|false\b|-?\d+(?:\.\d+)?"
_TO_FILL_IN = ("...", '"..."', "[...]", '["..."]')
_SWITCHES = {
    name
    for verb in VERBS.values()
    for name, schema in verb.properties.items()
    if schema["type"] == "boolean"
}
_SWITCH = re.compile(rf"(?<![-\w])({'|'.join(sorted(_SWITCHES))})=(true|false)\b")
_PLACES = re.compile(r"\bintervene with positions=\[([\d, -]+)\]")
_OF_ARGUMENTS = ("MISSING_ARGUMENT", "CONFLICTING_ARGUMENTS", "UNKNOWN_ARGUMENT")
"""Errors whose words are names of arguments."""


def program() -> str:
    """What the person typed to start this, or the plain name where a shell finds it by that."""
    typed, found = Path(sys.argv[0]), shutil.which("saescope")
    is_found = found is not None and typed.exists() and typed.samefile(found)
    # PowerShell runs a path with slashes as it is; with backslashes it would need quotes and "&"
    return "saescope" if is_found or typed.name != "saescope" else typed.as_posix()


def as_command(call: str, given: Mapping[str, Any] = MappingProxyType({})) -> str:
    """`tool(k=3)` as `saescope tool --k 3`, with what was given in the place of "..."; what is no
    call of a tool stays as it is."""
    read = _read(call)
    if read is None:
        return call
    verb, arguments = read
    words = [program(), verb.command]
    for name, said in arguments.items():
        value = given.get(name, said) if said is ... else said
        if name == "..." or name in verb.options or name == "sae":
            words += _words(name, verb.properties.get(name, {}), value)
    return line_of(words)


def line_of(words: Sequence[str]) -> str:
    """Words as the shell of this system takes them: those of Windows know no single quotes."""
    return " ".join(map(_in_double_quotes, words)) if WINDOWS else shlex.join(words)


def _in_double_quotes(word: str) -> str:
    """A word by the rules of Windows' own command lines, where it needs quotes."""
    if re.fullmatch(r"[\w./\\:=+-]+", word):
        return word
    escaped = re.sub(r'(\\*)"', r"\1\1\"", word)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def in_shell(text: str, verb: Verb | None = None) -> str:
    """A text in which calls of tools are commands, and settings of the tool's own arguments its
    options."""
    said = "".join(
        as_command(part) if _TOOL_CALL.match(part) else _in_words(part, verb)
        for part in _parts(text)
    )
    return re.sub(rf"\b([Cc])all (?=saescope |{re.escape(program())} )", _run, said)


def _run(found: re.Match[str]) -> str:
    return "Run " if found[1] == "C" else "run "


def description_in_shell(verb: Verb) -> str:
    """What the tool does, without what is only said of waiting for a server."""
    sentences = re.split(r"(?<=\.) ", verb.description)
    waits = "wait_s" in verb.options
    kept = (each for each in sentences if waits or "wait_s" not in each)
    return help_in_shell(" ".join(kept), verb)


def help_in_shell(text: str, verb: Verb) -> str:
    """The description of an option, with the other arguments that it names as options."""
    names = [name for name in _settable(verb) if "_" in name]
    bare = re.compile(rf"(?<![-\w])({'|'.join(names)})(?![\w=])") if names else None
    said = in_shell(text, verb)
    return bare.sub(lambda found: _flag(found[1], verb), said) if bare else said


def error_in_shell(document: Mapping[str, str], verb: Verb | None = None) -> dict[str, str]:
    """The document of an error with its arguments as options."""
    texts = {
        name: in_shell(document.get(name, ""), verb) for name in ("message", "allowed", "hint")
    }
    if verb and document.get("code") in _OF_ARGUMENTS:
        names = sorted(_settable(verb), key=len, reverse=True)
        bare = re.compile(rf"(?<![-\w])'?({'|'.join(names)})'?(?=[\s,;:.)]|$)(?!\.\w)")
        for name in ("message", "allowed"):
            texts[name] = bare.sub(lambda found: _flag(found[1], verb), texts[name])
    elif verb and (field := document.get("field", "")) in _settable(verb):
        texts["message"] = texts["message"].replace(repr(field), _flag(field, verb))
    return {**document, **texts}


def _in_words(text: str, verb: Verb | None) -> str:
    edit = f"{program()} intervene --edit FEATURE@"
    text = _PLACES.sub(lambda found: f"{edit}{found[1]}", text)
    text = _SWITCH.sub(lambda found: _switch(found[1], found[2]), text)
    if verb:
        setting = re.compile(rf"(?<![-\w])({'|'.join(_settable(verb))})=({_VALUE})")
        text = setting.sub(lambda found: _setting(found, verb), text)
    return _TOOL_NAME.sub(lambda found: f"{program()} {found[0].replace('_', '-')}", text)


def _switch(name: str, value: str) -> str:
    return f"--{'' if value == 'true' else 'no-'}{name.replace('_', '-')}"


def _setting(found: re.Match[str], verb: Verb) -> str:
    try:
        value = json.loads(found[2])
    except ValueError:
        return found[0]
    return line_of([*_words(found[1], _settable(verb)[found[1]], value)])


def _settable(verb: Verb) -> Mapping[str, Schema]:
    """The arguments that a person can set on this command."""
    loading = LOADING if verb.loads_first else ()
    return {name: VERBS["load_sae"].properties[name] for name in loading} | dict(verb.properties)


def _flag(name: str, verb: Verb) -> str:
    return flag_of(name, _settable(verb)[name])


def _parts(text: str) -> Iterator[str]:
    """Calls of tools, and what stands between them."""
    at = 0
    for found in _TOOL_CALL.finditer(text):
        end = _end_of_call(text, found.end())
        if found.start() >= at and end:
            yield text[at : found.start()]
            yield text[found.start() : end]
            at = end
    yield text[at:]


def _end_of_call(text: str, start: int) -> int:
    """Where the parenthesis before `start` is closed; 0: nowhere."""
    depth = 1
    for found in re.compile(rf"{_QUOTED}|[()]").finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return 0


def _read(call: str) -> tuple[Verb, dict[str, Any]] | None:
    """The tool and its arguments, whose values are JSON or are to be filled in."""
    try:
        made = ast.parse(call, mode="eval").body
        if not (isinstance(made, ast.Call) and isinstance(made.func, ast.Name)):
            return None
        arguments = {"..." if isinstance(each, ast.Constant) else "": ... for each in made.args}
        for each in made.keywords:
            piece = ast.get_source_segment(call, each.value) or ""
            arguments[str(each.arg)] = ... if piece in _TO_FILL_IN else json.loads(piece)
    except (SyntaxError, ValueError):
        return None
    verb = VERBS.get(made.func.id)
    known = verb and arguments.keys() - {"..."} <= verb.properties.keys()
    return (verb, arguments) if verb and known else None


def _words(name: str, schema: Schema, value: Any) -> Iterable[str]:
    if name == "...":
        return ["..."]
    flag = flag_of(name, schema)
    if value is None:
        return []
    if value is ...:
        return [flag, "..."]
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if not isinstance(value, list):
        return [flag, str(value)]
    if value and all(isinstance(each, int | float) for each in value):
        return [flag, ",".join(str(each).lower() for each in value)]
    listed = [_item(each) if is_of_items(schema) else str(each) for each in value]
    return [word for each in listed for word in (flag, each)]


def _item(item: Mapping[str, Any]) -> str:
    """An edit in one word, as `flags` reads it."""
    sae = f"{item['sae']}#" if item.get("sae") else ""
    strength = f"={item['strength']}" if "strength" in item else ""
    mode = f":{item['mode']}" if "mode" in item else ""
    places = ",".join(map(str, item.get("positions", [])))
    return f"{sae}{item['feature']}{strength}{mode}{f'@{places}' if places else ''}{_when(item)}"


def _when(item: Mapping[str, Any]) -> str:
    """The condition of an edit, if it has one."""
    if item.get("when_feature", -1) < 0:
        return ""
    sae = f"{item['when_sae']}#" if item.get("when_sae") else ""
    above = f">{item['when_above']}" if item.get("when_above") else ""
    return f"?{sae}{item['when_feature']}{above}"
