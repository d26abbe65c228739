"""What the ledger says of a result that it keeps, and of an investigation."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptResult:
    """One line of the list of kept results."""

    result_id: str
    created: str
    """When it was first computed, in UTC."""
    tool: str
    about: tuple[str, ...]
    """The handles of its SAEs."""
    evidence: str | None
    says: str
    """Its summary."""
    note: str = ""
    """What the investigation says of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Investigation:
    """A named list of results with notes."""

    name: str
    note: str
    result_ids: tuple[str, ...]
    """In the order in which they were added."""
    notes: tuple[str, ...]
    """One for each result; empty where there is none."""
