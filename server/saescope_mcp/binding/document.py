"""Makes of a reply the document that is sent: rounded, clean, within the token budget, with an
id."""

import json
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from saescope.errors import NumericError
from saescope.ledger import KeptEntry
from saescope_mcp.schemas.common import SHORT_DIGITS, Reply, Request, in_order

Document = dict[str, Any]


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Result:
    """A reply as plain data, before it is made short for whoever asked."""

    tool: str
    request: Request
    reply: Reply

    @cached_property
    def arguments(self) -> Document:
        """What was asked, without what only the sending of the answer depends on."""
        without = {"response_format", "wait_s"}
        return self.request.model_dump(mode="json", by_alias=True, exclude=without)

    @cached_property
    def whole(self) -> Document:
        """The document with all of its provenance.

        Raises:
            NumericError: a number in it is not finite.
        """
        return tidy(in_order(type(self.reply), self.reply.model_dump(mode="json")))

    @cached_property
    def entry(self) -> KeptEntry:
        """Call and document, with the id that they make."""
        left_out = self.reply.momentary
        whole = {name: item for name, item in self.whole.items() if name != "result_id"}
        return KeptEntry(
            tool=self.tool, arguments=self.arguments, document=whole, left_out=left_out
        )

    def told(self, max_tokens: int, *, result_id: str, url: str = "") -> Document:
        """The document within the token budget; the id, and the `url` at which a person sees the
        result, are told where numbers were computed. A reply with a `url` of its own keeps it."""
        done = {name: _own(item) for name, item in self.whole.items()}
        if origin := self.reply.provenance:
            short = self.request.response_format == "concise"
            told = origin.brief() if short else origin
            done |= {"result_id": result_id, "provenance": tidy(told.model_dump(mode="json"))}
            done |= {"url": url} if url and not done.get("url") else {}
        listed, over = self.reply.listed, len(compact(done).encode()) - 3 * max_tokens
        start = self.arguments["offset"] if self.request.has_pages else None
        return _shortened(done, listed, start, over) if over > 0 and listed else done


def document(tool: str, request: Request, reply: Reply, *, max_tokens: int) -> Document:
    """Make plain data of the reply.

    Raises:
        NumericError: a number in it is not finite.
    """
    result = Result(tool, request, reply)
    return result.told(max_tokens, result_id=result.entry.result_id)


def _own(item: Any) -> Any:
    """A list that may be cut without the loss of what it was."""
    return [*item] if isinstance(item, list) else item


def in_short(done: Document, kind: type[Reply]) -> Document:
    """The document of a concise reply as it is sent: without what is empty, the usual case or said
    twice, without the fields that only a detailed one has, and of the provenance what the call did
    not name."""
    short = {"next": _steps(done), "provenance": _origin(done.get("provenance"))}
    known = {name: short.get(name, item) for name, item in done.items()}
    return _filled(known, _without(done, kind), kind.first)


def _origin(provenance: Document | None) -> str | None:
    """Which weights, by the first digits of their hashes, and the seed if there was one."""
    if provenance is None:
        return None
    hashes = [used["weights_hash"] for used in (provenance, *provenance.get("saes", []))]
    seed = provenance.get("seed")
    words = [*(each[:SHORT_DIGITS] for each in hashes if each)]
    return " ".join(words if seed is None else [*words, f"seed={seed}"]) or None


def _steps(done: Document) -> list[str]:
    """The suggested calls; where there are several, not the one for the next page, which
    `next_offset` gives."""
    steps, reads_on = done.get("next", []), f"offset={done.get('next_offset')}"
    return [call for call in steps if len(steps) == 1 or reads_on not in call]


def _without(done: Document, kind: type[Reply]) -> set[str]:
    """The fields that say nothing here: spare ones, and those that in every row of their list are
    the usual case or the same as their twin. Left out of some rows, they would read as unknown."""
    usual = {
        where
        for where, value in kind.usual.items()
        if all(item == value for item in _all_at(done, where.split(".")))
    }
    twins = {
        where
        for where, twin in kind.twins.items()
        if all(of[where.split(".")[-1]] == of.get(twin) for of in _owners(done, where.split(".")))
    }
    return {*kind.spare, *usual, *twins}


def _owners(done: Document, names: list[str]) -> list[Document]:
    """The objects that have the field of this place."""
    return [of for of in _all_at(done, names[:-1]) if isinstance(of, dict) and names[-1] in of]


def _all_at(value: Any, names: list[str]) -> Iterator[Any]:
    """What stands in this place, in each row of the lists on the way to it."""
    if isinstance(value, list):
        for item in value:
            yield from _all_at(item, names)
    elif not names:
        yield value
    elif isinstance(value, dict) and names[0] in value:
        yield from _all_at(value[names[0]], names[1:])


def _filled(value: Any, without: Set[str], first: Mapping[str, int], where: str = "") -> Any:
    """The value without these fields and what is empty; rows keep their place."""
    if isinstance(value, dict):
        return {
            name: _filled(item, without, first, f"{where}{name}.")
            for name, item in value.items()
            if item not in (None, [], {}) and f"{where}{name}" not in without
        }
    if isinstance(value, list):
        return [_filled(item, without, first, where) for item in value[: first.get(where[:-1])]]
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
        f"continue with offset={done['next_offset']}"
        if start is not None
        else "ask for fewer or shorter ones"
    )
    done["warnings"].append(f"{listed} was cut to {len(items)} to fit the reply: {advice}.")
    return done
