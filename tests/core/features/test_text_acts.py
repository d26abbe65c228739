"""Features of many texts are those of each text alone, for SAEs of every kind at every kind of
site."""

import pytest
import torch
from tests.core.features.test_encode import tokens_of
from tests.core.oracle import KINDS, Family, make_sae

from saescope.errors import NumericError
from saescope.features.reading.text_acts import FEW, text_acts
from saescope.splice import read_site


def check(family: Family, kind: str) -> None:
    sae, texts = make_sae(family, kind), tokens_of(family)
    few, many = (
        list(text_acts(family.model, sae, texts)),
        list(text_acts(family.model, sae, texts * FEW))[: len(texts)],
    )
    for tokens, one, other in zip(texts, few, many, strict=True):
        expected = read_site(family.model, sae, family.model.batch(tokens.ids)).acts.to_dense()
        assert torch.equal(one.acts.to_dense(), expected) and torch.allclose(
            other.acts.to_dense(), expected, atol=1e-3
        )


@pytest.mark.parametrize("kind", KINDS)
def test_many_texts_give_what_each_gives_alone(gpt2: Family, kind: str) -> None:
    check(gpt2, kind)


def test_in_every_family_many_texts_give_what_each_gives_alone(family: Family) -> None:
    check(family, "topk")


def test_activations_that_are_not_finite_are_an_error(gpt2: Family) -> None:
    sae = make_sae(gpt2, "standard")
    weight = gpt2.model.bridge.original_model.get_input_embeddings().weight
    tokens = gpt2.model.tokenize("a dog", prepend_bos=True)
    kept = weight[tokens.ids[1]].clone()
    with torch.no_grad():
        weight[tokens.ids[1]] = torch.nan
    try:
        with pytest.raises(NumericError):
            list(text_acts(gpt2.model, sae, [tokens]))
    finally:
        with torch.no_grad():
            weight[tokens.ids[1]] = kept
