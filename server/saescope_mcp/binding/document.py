"""Makes of a reply the document that is sent: rounded, clean, within the token budget, with an
id."""

import hashlib
import json
import math
from typing import Any

from saescope.errors import NumericError
from saescope_mcp.schemas.common import Reply, Request, in_order

Document = dict[str, Any]


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def document(tool: str, request: Request, reply: Reply, *, max_tokens: int) -> Document:
    """Make plain data of the reply.

    Raises:
        NumericError: a number in it is not finite.
    """
    arguments = request.model_dump(
        mode="json", by_alias=True, exclude={"response_format", "wait_s"}
    )
    if whole := reply.provenance:
        identity = json.dumps([tool, arguments, whole.model_dump()], sort_keys=True)
        result_id = hashlib.sha256(identity.encode()).hexdigest()[:12]
        told = whole.brief() if request.response_format == "concise" else whole
        reply = reply.model_copy(update={"result_id": result_id, "provenance": told})
    done: Document = tidy(in_order(type(reply), reply.model_dump(mode="json")))
    over = len(compact(done).encode()) - 3 * max_tokens
    start = arguments["offset"] if request.has_pages else None
    return _shortened(done, reply.listed, start, over) if over > 0 and reply.listed else done


def in_short(done: Document, kind: type[Reply]) -> Document:
    """The document of a concise reply as it is sent: without what is empty, the usual case or said
    twice, without the fields that only a detailed one has, and without the provenance, whose SAE
    the call named."""
    known = {name: item for name, item in done.items() if name != "provenance"}
    return _filled(known | {"next": _steps(done)}, kind)


def _steps(done: Document) -> list[str]:
    """The suggested calls; where there are several, not the one for the next page, which
    `next_offset` gives."""
    steps, reads_on = done.get("next", []), f"offset={done.get('next_offset')}"
    return [call for call in steps if len(steps) == 1 or reads_on not in call]


def _filled(value: Any, kind: type[Reply], where: str = "") -> Any:
    """The value without what a concise reply of this kind goes without; rows keep their place."""
    if isinstance(value, dict):
        return {
            name: _filled(item, kind, f"{where}{name}.")
            for name, item in value.items()
            if not _says_nothing(value, name, kind, f"{where}{name}")
        }
    if isinstance(value, list):
        most = kind.first.get(where.rstrip("."))
        return [_filled(item, kind, where) for item in value[:most]]
    return value


def _says_nothing(of: Document, name: str, kind: type[Reply], where: str) -> bool:
    """Whether the field is empty, spare, the usual case, or the same as its twin."""
    item = of[name]
    return (
        item in (None, [], {})
        or where in kind.spare
        or (where in kind.usual and item == kind.usual[where])
        or (where in kind.twins and item == of.get(kind.twins[where]))
    )


def tidy(value: Any, where: str = "result") -> Any:
    """Floats at 4 significant digits, strings without half surrogates.

    Raises:
        NumericError: a float is not finite.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NumericError(
                f"{where} is {value}.",
                field=where,
                hint='Try a smaller strength, or load the model with dtype="float32".',
            )
        return float(f"{value:.4g}")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {name: tidy(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [tidy(item, where) for item in value]
    return value


def _shortened(done: Document, listed: str, start: int | None, over: int) -> Document:
    """Drop trailing items of the reply's main list, which begins at offset `start` if it has pages,
    until it is `over` bytes shorter, and say so."""
    items: list[Any] = done[listed]
    over += 300  # the warning, and the flags that change
    while items and over > 0:
        over -= len(compact(items.pop()).encode()) + 1
    done["truncated"] = True
    if start is not None:
        was, done["next_offset"] = done["next_offset"], start + len(items)
        done["next"] = [
            call.replace(f"offset={was}", f"offset={done['next_offset']}") for call in done["next"]
        ]
    advice = (
        f"continue with offset={done['next_offset']}"
        if start is not None
        else "ask for fewer or shorter ones"
    )
    done["warnings"].append(f"{listed} was cut to {len(items)} to fit the reply: {advice}.")
    return done
