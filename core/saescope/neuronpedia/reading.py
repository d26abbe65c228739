"""Features and lists from files of Neuronpedia, read as answers of its API are: cleaned, capped,
and of one SAE."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from saescope.errors import ArgumentError
from saescope.neuronpedia import records
from saescope.neuronpedia.files import (
    KNOWN,
    LISTS,
    document_in,
    list_in,
    rows_in,
    sae_of,
    unreadable,
)
from saescope.neuronpedia.identity import HostedSAE
from saescope.neuronpedia.records import RemoteCard, RemoteExample, RemoteLabel, Retrieval, Row
from saescope.neuronpedia.uploads import FeatureList

MOST_FEATURES = 500
"""Features that are returned where none are named: the first of the file."""


@dataclass(frozen=True, slots=True)
class SharedFeatures:
    """What a file of Neuronpedia says of features of one SAE."""

    neuronpedia_id: str
    name: str
    """The name of a list; empty for others."""
    cards: tuple[RemoteCard, ...]
    """By number; a list keeps its order, and its words about a feature are its label."""


def read_features(
    path: str | Path, *, features: Collection[int] = (), neuronpedia_id: str = ""
) -> SharedFeatures:
    """Read what a file or folder says of `features` (empty: the first 500) of one SAE.

    Raises:
        FormatError: NEURONPEDIA_FILE_UNREADABLE, FILE_SUSPICIOUS: it is damaged, too large, or no
            file of Neuronpedia.
        ArgumentError: NEURONPEDIA_OTHER_SAE, it is about several SAEs, or another one than
            `neuronpedia_id`.
    """
    reader = _Gathering(frozenset(features), neuronpedia_id)
    for row in rows_in(Path(path).expanduser()):
        reader.take(row)
    return reader.result(Path(path).name)


def read_list(path: str | Path) -> FeatureList:
    """Read a list, of features of however many SAEs: the body that makes one, or what
    `/api/list/get` answers.

    Raises:
        FormatError: NEURONPEDIA_FILE_UNREADABLE, FILE_SUSPICIOUS.
    """
    place = Path(path).expanduser()
    made = list_in(document_in(place))
    if made is None:
        raise unreadable(place.name, "is no list of Neuronpedia", allowed=LISTS)
    return made


class _Gathering:
    """Takes rows of any table, in any order, and keeps of one SAE what is wanted."""

    def __init__(self, wanted: frozenset[int], neuronpedia_id: str) -> None:
        self._wanted, self._only = wanted, neuronpedia_id
        self._sae: HostedSAE | None = None
        self._cards: dict[int, RemoteCard] = {}
        self._others = dict[str, None]()
        self._name, self._is_list = "", False

    def take(self, row: Row) -> None:
        """Keep a row of "Neuron", "Explanation" or "Activation", or a feature with both in it."""
        sae, feature = sae_of(row), records.index_of(row.get("index"))
        if sae is None or feature is None or not self._is_about(sae):
            return
        unknown = feature not in self._cards
        if unknown and (
            feature not in self._wanted if self._wanted else len(self._cards) >= MOST_FEATURES
        ):
            return
        empty = {"index": feature}
        card = self._cards.get(feature) or records.card(empty, sae, feature, Retrieval(0.0))
        self._cards[feature] = _with(card, row, sae)
        if "list" in row:
            self._name, self._is_list = row["list"], True

    def _is_about(self, sae: HostedSAE) -> bool:
        """Whether this is the SAE that is read: the one that was asked for, else the first."""
        wanted = self._only or str(self._sae or sae)
        if str(sae).lower() == wanted.lower():  # an upload's ids are lower case
            self._sae = self._sae or HostedSAE.parse(wanted)
            return True
        if len(self._others) < 10:
            self._others[str(sae)] = None
        return False

    def result(self, name: str) -> SharedFeatures:
        others = [*self._others]
        if self._sae is None and not others:
            raise unreadable(name, "holds no feature of Neuronpedia", allowed=KNOWN)
        if self._sae is None or (others and not self._only):
            raise _other_sae(name, [str(self._sae)] * (self._sae is not None) + others, self._only)
        order = self._cards if self._is_list else sorted(self._cards)
        cards = tuple(self._cards[feature] for feature in order)
        return SharedFeatures(str(self._sae), self._name, cards)


def _with(card: RemoteCard, row: Row, sae: HostedSAE) -> RemoteCard:
    """The card with what a row adds; its columns say which table it is from."""
    if "description" in row:
        label = records.label_of(row)
        return _joined(card, labels=[label] if label else [])
    if "tokens" in row and "values" in row:
        example = records.example_of(row)
        return _joined(card, examples=[example] if example else [])
    whole = records.card(row, sae, card.feature, card.retrieval)
    return _joined(whole, labels=card.labels, examples=card.examples)


def _joined(
    card: RemoteCard,
    *,
    labels: Sequence[RemoteLabel] = (),
    examples: Sequence[RemoteExample] = (),
) -> RemoteCard:
    every = dict.fromkeys([*card.labels, *labels])
    strongest = sorted(
        dict.fromkeys([*card.examples, *examples]), key=lambda each: -each.activation
    )
    return replace(
        card,
        labels=tuple(every)[: records.MOST_LABELS],
        examples=tuple(strongest)[: records.MOST_EXAMPLES],
    )


def _other_sae(name: str, there: list[str], wanted: str) -> ArgumentError:
    about = ", ".join(there[:10])
    what = f"not {wanted}" if wanted else "several SAEs"
    return ArgumentError(
        f"{name!r} is about {about}, {what}.",
        code="NEURONPEDIA_OTHER_SAE",
        field="path",
        got=about,
        allowed=wanted or "one SAE",
        hint="Name the one to read as neuronpedia_id."
        if not wanted
        else "Load the SAE that it is about: another SAE's features are not these.",
    )
