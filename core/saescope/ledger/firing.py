"""What results say of where a feature fires: a reader for each kind of result."""

import re
from collections.abc import Iterator, Sequence

from saescope.ledger.entry import KeptEntry
from saescope.ledger.found import Row, can_be_said, finding
from saescope.records.claims import FeatureTest

LEAST_SHARE = 0.5
"""The share of texts that have a word, from which on it is what they have in common."""


def tells(found: FeatureTest, word: str) -> bool:
    """Whether a contrast was one of this word: at least half of the texts on which the feature
    fires more have it, and at most half as large a share of the others."""
    share, other = _share(found.texts, word), _share(found.other_texts, word)
    return share >= LEAST_SHARE and other <= share / 2


def _share(texts: Sequence[str], word: str) -> float:
    said = word.strip().casefold()
    left, right = (r"\b" if re.match(r"\w", end) else "" for end in (said[:1], said[-1:]))
    pattern = re.compile(left + re.escape(said) + right)
    has_it = sum(bool(said and pattern.search(text.casefold())) for text in texts)
    return has_it / len(texts) if texts else 0.0


def contrast(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A contrast of texts: what tells them apart, on held-out texts."""
    given, done = entry.arguments, entry.document
    if given["against_sae"]:  # one set of texts in two models
        return
    for row in done["features"]:
        sides = given["texts"], given["against"]
        own, others = sides if row["side"] == "texts" else sides[::-1]
        sure = row["confirmed"] and not row["confounds"]
        if own and others:  # those of a file are not in the result
            yield finding(
                entry,
                row["feature"],
                kind="texts",
                effect="",
                direction="fires",
                level="correlates" if sure else "seen",
                texts=tuple(own),
                other_texts=tuple(others),
            )
        if row["top"]:
            yield from _fires(entry, row["feature"], row["top"]["token"], None)


def _fires(entry: KeptEntry, feature: int, token: str, sae: str | None) -> Iterator[FeatureTest]:
    if can_be_said(token):
        yield finding(
            entry, feature, sae=sae, kind="token", effect=token, direction="fires", level="seen"
        )


def ranking(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A ranking: the token where each fires most."""
    for row in entry.document["features"]:
        if row.get("top_token"):
            yield from _fires(entry, row["feature"], row["top_token"]["token"], row.get("sae"))


def tokens(entry: KeptEntry) -> Iterator[FeatureTest]:
    """Texts token by token: the features of each token."""
    for token in entry.document.get("tokens") or []:
        for row in token.get("features", []):
            if row["activation"] > 0:
                yield from _fires(entry, row["feature"], token["token"], row.get("sae"))


def card(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A card: the tokens of its examples, where it fires in them."""
    if (feature := entry.document.get("feature")) is not None:
        for row in entry.document.get("examples") or []:
            if row["activation"] > 0:
                yield from _fires(entry, feature, row["token"], None)


def label(entry: KeptEntry) -> Iterator[FeatureTest]:
    """A label that passed its blind quiz."""
    said: Row = entry.document["label"]
    if isinstance(said["score"], dict) and said["score"]["low"] > 0.5:
        yield finding(
            entry,
            entry.document["feature"],
            kind="concept",
            effect=said["text"],
            direction="fires",
            level="correlates",
        )
