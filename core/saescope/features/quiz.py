"""A blind quiz about one feature: short texts of which half make it fire, in random order, from contexts that no card shows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from saescope.errors import ArgumentError, NotFoundError
from saescope.features.index import FeatureIndex, QuizPassage, QuizPool
from saescope.features.quiz_store import Quiz, QuizStore, StoredItem, passage_key
from saescope.untrusted import clean_token

MARKS = ("⟦", "⟧")
LEAST, MOST = 4, 40
FAINT = 0.1
"""Firings below this share of the feature's maximum are asked only where there are no others."""
PIECE_CHARS = 2000
Kind = Literal["detection", "fuzzing"]


class _Item(NamedTuple):
    passage: QuizPassage
    kind: Kind
    pos: int
    """The token that a fuzzing item marks."""
    fires: bool


@dataclass(slots=True)
class _Material:
    """What is left of the pool; each passage is used once."""

    firing: list[QuizPassage]
    near_miss: list[QuizPassage]
    random: list[QuizPassage]

    def silent(self, turn: int) -> QuizPassage | None:
        """A near miss, every third time a text at random, as far as there are any."""
        source = (self.random or self.near_miss) if turn % 3 == 2 else (self.near_miss or self.random)
        return source.pop() if source else None


def make_quiz(
    index: FeatureIndex, feature: int, *, store: QuizStore | None = None, n: int = 12, seed: int = 0, similar: Sequence[int] = ()
) -> Quiz:
    """A quiz of `n` items, half "detection" (does it fire anywhere in the text?), half "fuzzing" (does it fire on the marked token?).

    The same call gives the same quiz until that one is answered; then its texts are spent for this feature. `similar` are features
    like this one (its decoder neighbours), which make good distractors.

    Raises:
        ArgumentError: `n` is out of range.
        NotFoundError: the index holds too few texts that were not yet asked.
    """
    if not LEAST <= n <= MOST:
        raise ArgumentError(f"A quiz has {LEAST} to {MOST} items.", code="OUT_OF_RANGE", field="n", got=n, allowed=f"{LEAST}..{MOST}")
    store, weights_hash = store or QuizStore(), index.manifest.weights_hash
    open_one = store.find_open(weights_hash, feature, n=n, seed=seed)
    if open_one:
        return open_one
    spent = store.spent(weights_hash, feature)
    pool = index.quiz_pool(feature, seed=seed, similar=similar)
    items = _choose(_unspent(pool, spent, index.maximum(feature) or 0.0), n, random.Random(f"{seed} {feature}"))
    if len(items) < LEAST:
        raise NotFoundError(
            f"The index has too few texts for a quiz on feature {feature} ({len(pool.firing)} where it fires, {len(spent)} already asked).",
            code="QUIZ_TOO_FEW_TEXTS",
            field="feature",
            got=feature,
            hint="Index more text: index_features with a larger n_tokens, or another dataset.",
        )
    stored = [StoredItem(item.kind, _text(item), item.fires, passage_key(item.passage.tokens)) for item in items]
    return store.add(weights_hash, feature, stored, n=n, seed=seed)


def _unspent(pool: QuizPool, spent: frozenset[str], maximum: float) -> _Material:
    kept = [
        [p for p in part if passage_key(p.tokens) not in spent and not any(mark in "".join(p.tokens) for mark in MARKS)] for part in pool
    ]
    # Taken from the end: the faint ones only when all others are gone.
    firing = sorted(kept[0], key=lambda p: p.activation >= FAINT * maximum)
    return _Material(firing, kept[1], kept[2])


def _choose(material: _Material, n: int, rng: random.Random) -> list[_Item]:
    """Pairs of an item where it fires and one where it does not, detection and fuzzing by turns, shuffled."""
    items: list[_Item] = []
    for turn in range(n // 2):
        kind: Kind = "fuzzing" if turn % 2 else "detection"
        silent = _silent(material, kind, turn, rng)
        if silent is None or not material.firing:
            break
        passage = material.firing.pop()
        items += [_Item(passage, kind, passage.pos, True), silent]
    if n % 2 and len(items) == n - 1 and material.firing:
        passage = material.firing.pop()
        items.append(_Item(passage, "detection", passage.pos, True))
    rng.shuffle(items)
    return items


def _silent(material: _Material, kind: Kind, turn: int, rng: random.Random) -> _Item | None:
    """An item where it does not fire; every other fuzzing item marks the wrong token of a text in which the feature does fire."""
    if kind == "fuzzing" and turn % 4 == 1 and len(material.firing) > 1:
        passage = material.firing[0]
        words = [i for i, value in enumerate(passage.activations) if value == 0 and passage.tokens[i].strip().isalpha()]
        if words:
            return _Item(material.firing.pop(0), kind, rng.choice(words), False)
    passage = material.silent(turn)
    return None if passage is None else _Item(passage, kind, passage.pos, False)


def _text(item: _Item) -> str:
    tokens = list(item.passage.tokens)
    if item.kind == "fuzzing":
        word = tokens[item.pos]
        space = word[: len(word) - len(word.lstrip())]
        tokens[item.pos] = f"{space}{MARKS[0]}{word.lstrip()}{MARKS[1]}"
    return clean_token("".join(tokens), PIECE_CHARS)
