"""A task: what the user says, what lies ready, what a good answer must have done and said, and a
reference that does it."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from saescope.embedded import landmarks

TASKS = Path(__file__).parent / "tasks"
Level = Literal["observed", "correlational", "intervened", "controlled"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Strict):
    """A call that must be in the trace. Steps without `after` may come in any order."""

    call: str
    arguments: dict[str, str] = Field(default={}, alias="with")
    """Regular expressions that the arguments, written as JSON, must match; "absent": the argument
    may not be given."""
    after: str = ""
    """Another step's call, which must come before."""
    fails: str = ""
    """The code that it is refused with; empty: it must succeed."""


class Number(_Strict):
    """A number that the report must give, worked out again by `agent_evals.truth`."""

    near: str
    """A regular expression for the words in whose sentence it stands."""
    truth: dict[str, dict[str, Any]]
    """One function of `agent_evals.truth` with its arguments."""
    tolerance: float = 0.02
    """Relative; rounding to what is written is allowed besides."""


class Words(_Strict):
    """Regular expressions that the report must match, and must not; case is ignored."""

    must: list[str] = []
    must_not: list[str] = []


class Spoilt(_Strict):
    """A bad answer: the reference with another report, or without some of its calls. The judge must
    find what it fails."""

    fails: Literal["trace", "forbidden", "numbers", "words", "evidence", "tokens"]
    report: str = ""
    without: list[int] = []
    """Calls left out, by number from 0."""
    instead: dict[int, dict[str, dict[str, Any]]] = {}
    """Calls with other arguments, marked as having succeeded."""


class Task(_Strict):
    """One file of `agent_evals/tasks/`."""

    name: str
    prompt: str
    trap: str
    model: Literal["tiny", "embedded"] = "tiny"
    things: list[str] = ["good"]
    """What `agent_evals.bench` lays out; prompts and calls name it as {{ good }}."""
    before: list[dict[str, dict[str, Any]]] = []
    """Calls that were made before the user came."""
    settings: dict[str, Any] = {}
    """Of the server, besides offline=true."""
    trace: list[Step] = []
    forbidden: list[Step] = []
    """Calls that may not succeed."""
    numbers: list[Number] = []
    words: Words = Words()
    evidence: Level = "controlled"
    """The highest level that the calls of this task support."""
    max_tokens: int = Field(default=6000)
    """Of all calls and results together; a token is three UTF-8 bytes."""
    calls: list[dict[str, dict[str, Any]]]
    """The reference: tool to arguments, in which {{ r[0].sae }} is a field of an earlier result."""
    report: str
    """The reference's answer to the user, with the same fields."""
    spoilt: list[Spoilt]


def load_tasks(names: list[str] | None = None) -> list[Task]:
    """All tasks, or those named.

    Raises:
        ValueError: there is no such task.
    """
    found = [
        Task.model_validate(document)
        for path in sorted(TASKS.glob("*.yaml"))
        for document in _documents(path)
    ]
    known = [task.name for task in found]
    if unknown := sorted(set(names or ()) - set(known)):
        raise ValueError(f"there is no task {unknown[0]!r}; there are {', '.join(known)}")
    return [task for task in found if not names or task.name in names]


def _documents(path: Path) -> list[Any]:
    """`{{ female }}` is the feature of the embedded SAE that fires on female words."""
    text = path.read_text(encoding="utf-8").replace("{{ female }}", str(landmarks()["female"]))
    return [document for document in yaml.safe_load_all(text) if document]
