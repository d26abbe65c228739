"""What fires on texts, as code."""

from typing import Any

from saescope.ledger import KeptEntry
from saescope.records.features import Ranking
from saescope.reports.desk import Desk, handles_of
from saescope.reports.replays.replay import (
    Replay,
    found,
    options,
    refuse_files,
    stored,
)

_RANK: dict[str, Any] = {"rank_by": "max", "k": 10, "offset": 0, "include_special": False}


def top_features(entry: KeptEntry, desk: Desk) -> Replay:
    """A ranking."""
    refuse_files(entry, "texts_file", "against_file")
    asked, handles = entry.arguments, handles_of(entry)
    given = [desk.model(entry, handles[0]), desk.saes(entry, handles)]
    given.append(desk.tokens_of(entry, handles, texts_of(entry)))
    named = options(entry, _RANK)
    if asked.get("against"):
        named["against"] = desk.tokens_of(entry, handles, asked["against"])
    kept = stored(entry, Ranking)
    if any(row.get("density") is not None for row in kept["features"]):
        indexes = [desk.index(entry, handle) for handle in handles]
        named["index"] = indexes[0] if len(indexes) == 1 else f"[{', '.join(indexes)}]"
    return Replay(found("ss.rank_features", given, named), kept)


def texts_of(entry: KeptEntry) -> list[str]:
    """The texts of a call."""
    return entry.arguments.get("texts") or [entry.arguments.get("text", "")]
