"""A result as it is kept: the call, the document, and an id that is the hash of both."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from saescope.json_text import parse

ID_DIGITS = 12
VERSION = 1
MOMENTARY = frozenset({"next", "warnings", "job_id"})
"""Fields of a document that say nothing of what was measured: they may differ from one call to the
same call."""


def result_id_of(
    tool: str,
    arguments: Mapping[str, Any],
    document: Mapping[str, Any],
    *,
    left_out: Collection[str] = (),
) -> str:
    """The hash of a call and of what it came to, the versions in its provenance included; fields
    that belong to the moment do not count."""
    apart = {*MOMENTARY, *left_out}
    measured = {name: value for name, value in document.items() if name not in apart}
    text = json.dumps([tool, arguments, measured], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def now() -> str:
    """The present time in UTC, as it is stored."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class KeptEntry:
    """One result with the call that it came from."""

    tool: str
    arguments: dict[str, Any]
    document: dict[str, Any]
    """Without the id, which it makes."""
    left_out: tuple[str, ...] = ()
    """Fields of this document that its id does not rest on, beside the usual ones."""
    created: str = field(default_factory=now)

    @cached_property
    def result_id(self) -> str:
        return result_id_of(self.tool, self.arguments, self.document, left_out=self.left_out)

    @property
    def saes(self) -> tuple[str, ...]:
        """The handles that it is about: those of its provenance, and of a set those of its layers;
        else those that the call names."""
        origin = self.document.get("provenance") or {}
        used = [origin.get("sae"), *(each["sae"] for each in origin.get("saes") or [])]
        used += [each for each in self.document.get("saes") or [] if isinstance(each, str)]
        asked = [
            self.arguments.get("sae"),
            *self.arguments.get("saes", []),
            self.document.get("sae"),
        ]
        named = [*filter(None, used)] or [*filter(None, asked)]
        return tuple(dict.fromkeys(named))

    @property
    def evidence(self) -> str | None:
        return self.document.get("evidence")

    @property
    def summary(self) -> str:
        return self.document.get("summary", "")

    def to_bytes(self) -> bytes:
        """The entry as a file."""
        fields = {
            "version": VERSION,
            "tool": self.tool,
            "created": self.created,
            "left_out": [*self.left_out],
            "arguments": self.arguments,
            "document": self.document,
        }
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "KeptEntry":
        """The entry that a file holds.

        Raises:
            ValueError: it is not such a file; the message completes "it ...".
        """
        said = parse(content)
        kinds = {"tool": str, "created": str, "left_out": list, "arguments": dict, "document": dict}
        if not isinstance(said, dict) or said.get("version") != VERSION:
            raise ValueError(f"is no entry of version {VERSION}")
        if any(not isinstance(said.get(name), kind) for name, kind in kinds.items()):
            raise ValueError("lacks a part of an entry")
        return cls(
            tool=said["tool"],
            created=said["created"],
            left_out=tuple(said["left_out"]),
            arguments=said["arguments"],
            document=said["document"],
        )
