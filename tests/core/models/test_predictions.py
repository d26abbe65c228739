"""What an effect is measured on: a token, or the difference of two."""

import pytest
import torch
from tests.core.oracle import Family

from saescope.errors import ArgumentError
from saescope.models import NamedTarget


def test_a_token_id_outside_the_vocabulary_is_refused(gpt2: Family) -> None:
    """One below 0 would count from its end."""
    for target, against, field in ((-1, None, "target"), (5, gpt2.model.d_vocab, "against")):
        with pytest.raises(ArgumentError, match="outside the vocabulary") as raised:
            NamedTarget.of(gpt2.model, target, against)
        assert (raised.value.code, raised.value.field) == ("TOKEN_OUT_OF_RANGE", field)


def test_the_likeliest_token_has_no_difference_to_itself(gpt2: Family) -> None:
    logits = torch.tensor([0.0, 3.0, 1.0])
    with pytest.raises(ArgumentError, match="its difference to itself is 0") as raised:
        NamedTarget.of(gpt2.model, None, 1).on(logits)
    assert raised.value.field == "against" and raised.value.hint
    assert NamedTarget.of(gpt2.model, None, 2).on(logits).token == 1
