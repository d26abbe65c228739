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


IN_SHORT = frozenset({"sae", "saes"})
"""What a concise reply says of its provenance; the rest is in a detailed one of the same id."""
NOTHING_TO_SAY = {"truncated": False, "n_sinks": 0}
"""What is the usual case, and left out of a concise reply."""


def in_short(done: Document, spare: frozenset[str]) -> Document:
    """The document of a concise reply as it is sent: without what is empty or the usual case,
    without the fields that only a detailed one has (`spare`, as "rows.field"), and with as much of
    its provenance as names the SAE, where no other field does."""
    kept = {
        name: {
            key: said for key, said in value.items() if key in IN_SHORT and said != done.get(key)
        }
        if name == "provenance" and value
        else value
        for name, value in done.items()
        if name not in NOTHING_TO_SAY or value != NOTHING_TO_SAY[name]
    }
    return _filled(kept, spare)


def _filled(value: Any, spare: frozenset[str], where: str = "") -> Any:
    """The value without null, empty lists and empty objects; rows keep their place."""
    if isinstance(value, dict):
        return {
            name: _filled(item, spare, f"{where}{name}.")
            for name, item in value.items()
            if item not in (None, [], {}) and f"{where}{name}" not in spare
        }
    if isinstance(value, list):
        return [_filled(item, spare, where) for item in value]
    return value


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
        f"go on with offset={done['next_offset']}"
        if start is not None
        else "ask for fewer or shorter ones"
    )
    done["warnings"].append(f"{listed} was cut to {len(items)} to fit the reply: {advice}.")
    return done
