"""Features of texts against NumPy over activations of the plain model."""

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.core.oracle import KINDS, Array, Family, NumpySAE, close, flat, make_sae

from saescope.errors import ArgumentError
from saescope.features import encode_texts
from saescope.models import Tokens
from saescope.saes import SAE
from saescope.splice import read_hook, write_hook

TEXTS = ("The old man saw the little house<eos> by the sea.", "She said it was the best day of all")


def tokens_of(family: Family) -> list[Tokens]:
    return [family.model.tokenize(text, prepend_bos=True) for text in TEXTS]


def numpy_of(family: Family, sae: SAE, tokens: Tokens) -> tuple[Array, Array, Array]:
    """(activations, what it should reconstruct, reconstruction)."""
    found = family.hf.record(tokens.ids[None], [read_hook(sae), write_hook(sae)])
    x, numpy = flat(found[read_hook(sae)]), NumpySAE(sae)
    return numpy.encode(x), flat(found[write_hook(sae)]), numpy(x)


def counted_by_hand(tokens: Tokens) -> NDArray[np.bool_]:
    return np.array([pos > 0 and int(token) > 3 for pos, token in enumerate(tokens.ids)])


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_statistics_are_numpys(family: Family, kind: str) -> None:
    if KINDS[kind].site not in family.hf.sites:
        pytest.skip("parallel blocks")
    sae, texts = make_sae(family, kind), tokens_of(family)
    encoded = encode_texts(family.model, sae, texts)
    parts = [numpy_of(family, sae, tokens) for tokens in texts]
    masks = [counted_by_hand(tokens) for tokens in texts]
    for text, (acts, _, _), mask in zip(encoded.texts, parts, masks, strict=True):
        assert text.counted.tolist() == mask.tolist()
        close(text.acts.to_dense(), acts)
        assert [text.l0(pos) for pos in range(len(acts))] == (acts > 0).sum(axis=1).tolist()
    target, out = (
        np.concatenate([part[i][mask] for part, mask in zip(parts, masks, strict=True)])
        for i in (1, 2)
    )
    l0 = np.concatenate(
        [(acts > 0).sum(axis=1)[mask] for (acts, _, _), mask in zip(parts, masks, strict=True)]
    )
    assert encoded.n_tokens == sum(mask.sum() for mask in masks)
    assert encoded.n_left_out == sum((~mask).sum() for mask in masks) == 3  # two BOS and one EOS
    assert encoded.l0_mean == pytest.approx(l0.mean())
    variance = ((target - target.mean(axis=0)) ** 2).sum()
    assert encoded.explained_variance == pytest.approx(
        1 - ((target - out) ** 2).sum() / variance, abs=1e-3
    )
    cosines = (target * out).sum(axis=1) / (
        np.linalg.norm(target, axis=1) * np.linalg.norm(out, axis=1)
    )
    assert encoded.cosine == pytest.approx(cosines.mean(), abs=1e-4)


def test_the_strongest_features_of_a_position_come_first(gpt2: Family) -> None:
    sae, (tokens, _) = make_sae(gpt2, "standard"), tokens_of(gpt2)
    acts, _, _ = numpy_of(gpt2, sae, tokens)
    text = encode_texts(gpt2.model, sae, [tokens]).texts[0]
    for pos in range(len(tokens)):
        order = np.argsort(-acts[pos], kind="stable")[:3]
        found = text.at(pos, 3)
        assert [feature for feature, _ in found] == [i for i in order if acts[pos, i] > 0]
        close([value for _, value in found], acts[pos, [feature for feature, _ in found]])


def test_named_positions_alone_are_counted_even_special_ones(gpt2: Family) -> None:
    sae, texts = make_sae(gpt2, "standard"), tokens_of(gpt2)
    encoded = encode_texts(gpt2.model, sae, texts, positions=[0, -1])
    assert encoded.n_tokens == 4 and [
        text.counted.nonzero()[:, 0].tolist() for text in encoded.texts
    ] == [
        [0, len(texts[0]) - 1],
        [0, len(texts[1]) - 1],
    ]


def test_special_positions_are_counted_when_asked(gpt2: Family) -> None:
    encoded = encode_texts(
        gpt2.model, make_sae(gpt2, "standard"), tokens_of(gpt2), include_special=True
    )
    assert encoded.n_left_out == 0 and encoded.n_tokens == sum(
        len(tokens) for tokens in tokens_of(gpt2)
    )


def test_nothing_left_to_count_gives_no_statistics(gpt2: Family) -> None:
    encoded = encode_texts(
        gpt2.model, make_sae(gpt2, "standard"), [gpt2.model.tokenize("<eos>", prepend_bos=True)]
    )
    assert (encoded.n_tokens, encoded.n_left_out) == (0, 2)
    assert encoded.l0_mean is encoded.explained_variance is encoded.cosine is None


def test_a_position_outside_one_of_the_texts_is_refused(gpt2: Family) -> None:
    with pytest.raises(ArgumentError) as caught:
        encode_texts(
            gpt2.model, make_sae(gpt2, "standard"), tokens_of(gpt2), positions=[len(TEXTS[0])]
        )
    assert caught.value.code == "POSITION_OUT_OF_RANGE"
