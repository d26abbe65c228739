"""A blind quiz about one feature: short texts of which half make it fire, in random order, from
contexts that no card shows."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from saescope.errors import ArgumentError, NotFoundError
from saescope.features.index import FeatureIndex, QuizPassage
from saescope.features.labels.quiz_material import Material, quiz_material
from saescope.features.labels.quiz_store import MARKS, Quiz, QuizStore, StoredItem, passage_key
from saescope.untrusted import clean_token

LEAST, MOST = 4, 40
PIECE_CHARS = 2000
Kind = Literal["detection", "fuzzing"]


class _ChosenItem(NamedTuple):
    passage: QuizPassage
    kind: Kind
    pos: int
    """The token that a fuzzing item marks."""
    fires: bool


def make_quiz(
    index: FeatureIndex,
    feature: int,
    *,
    store: QuizStore | None = None,
    n: int = 12,
    seed: int = 0,
    similar: Sequence[int] = (),
) -> Quiz:
    """A quiz of `n` items, half "detection" (does it fire anywhere in the text?), half "fuzzing"
    (does it fire on the marked token?).

    The same call gives the same quiz until that one is answered; then its texts are spent for this
    feature. `similar` are features like this one (its decoder neighbours), which make good
    distractors.

    Raises:
        ArgumentError: `n` is out of range.
        NotFoundError: the index holds too few texts that were not yet asked.
    """
    if not LEAST <= n <= MOST:
        raise ArgumentError(
            f"A quiz has {LEAST} to {MOST} items.",
            code="OUT_OF_RANGE",
            field="n",
            got=n,
            allowed=f"{LEAST}..{MOST}",
        )
    store, weights_hash = store or QuizStore(), index.manifest.weights_hash
    open_one = store.find_open(weights_hash, feature, n=n, seed=seed)
    if open_one:
        return open_one
    spent = store.spent(weights_hash, feature)
    material = quiz_material(index, feature, seed=seed, similar=similar, spent=spent)
    n_firing = len(material.firing)
    items = _choose(material, n, random.Random(f"{seed} {feature}"))
    if len(items) < LEAST:
        raise NotFoundError(
            f"The index has too few texts for a quiz on feature {feature} ({n_firing} "
            f"left where it fires, {len(spent)} asked before).",
            code="QUIZ_TOO_FEW_TEXTS",
            field="feature",
            got=feature,
            hint="Index more text: ss.index_features with a larger n_tokens, or another dataset.",
        )
    stored = [
        StoredItem(item.kind, _text(item), item.fires, passage_key(item.passage.tokens))
        for item in items
    ]
    return store.add(weights_hash, feature, stored, n=n, seed=seed)


def _choose(material: Material, n: int, rng: random.Random) -> list[_ChosenItem]:
    """Pairs of an item where it fires and one where it does not, detection and fuzzing by turns,
    shuffled."""
    items: list[_ChosenItem] = []
    for turn in range(n // 2):
        kind: Kind = "fuzzing" if turn % 2 else "detection"
        silent = _silent(material, kind, turn, rng)
        if silent is None or not material.firing:
            break
        passage = material.firing.pop()
        items += [_ChosenItem(passage, kind, passage.pos, True), silent]
    if n % 2 and len(items) == n - 1 and material.firing:
        passage = material.firing.pop()
        items.append(_ChosenItem(passage, "detection", passage.pos, True))
    rng.shuffle(items)
    return items


def _silent(material: Material, kind: Kind, turn: int, rng: random.Random) -> _ChosenItem | None:
    """An item where it does not fire; every other fuzzing item marks the wrong token of a text in
    which the feature does fire."""
    if kind == "fuzzing" and turn % 4 == 1 and len(material.firing) > 1:
        passage = material.firing[0]
        words = [
            i
            for i, value in enumerate(passage.activations)
            if value == 0 and passage.tokens[i].strip().isalpha()
        ]
        if words:
            return _ChosenItem(material.firing.pop(0), kind, rng.choice(words), False)
    passage = material.silent(turn)
    return None if passage is None else _ChosenItem(passage, kind, passage.pos, False)


def _text(item: _ChosenItem) -> str:
    tokens = list(item.passage.tokens)
    if item.kind == "fuzzing":
        word = tokens[item.pos]
        space = word[: len(word) - len(word.lstrip())]
        tokens[item.pos] = f"{space}{MARKS[0]}{word.lstrip()}{MARKS[1]}"
    return clean_token("".join(tokens), PIECE_CHARS)
