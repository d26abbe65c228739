"""What an agent did and said."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """One tool call with its answer, as the agent saw it."""

    tool: str
    arguments: Mapping[str, Any]
    result: Mapping[str, Any]
    is_error: bool

    @property
    def code(self) -> str:
        return str(self.result.get("code", "")) if self.is_error else ""

    @property
    def n_tokens(self) -> int:
        """A token is counted as three UTF-8 bytes."""
        said = json.dumps([self.arguments, self.result], ensure_ascii=False, separators=(",", ":"))
        return len(said.encode()) // 3


@dataclass
class Transcript:
    """All calls in order, and the final answer to the user."""

    calls: list[Call] = field(default_factory=list[Call])
    report: str = ""

    @property
    def n_tokens(self) -> int:
        return sum(call.n_tokens for call in self.calls)
