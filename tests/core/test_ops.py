"""Operations on sparse activations that others are made of, beside torch's own."""

import pytest
import torch

from saescope.ops import top_of_rows, topk_acts


@pytest.mark.parametrize("width", [48, 96, 1000, 1001])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_top_of_rows_is_topk(width: int, k: int) -> None:
    values = torch.randn(20, width, generator=torch.Generator().manual_seed(width + k))
    top, features = top_of_rows(values, k)
    assert torch.equal(top.sort(1).values, values.topk(k).values.flip(1))
    assert torch.equal(values.gather(1, features), top)


@pytest.mark.parametrize("width", [37, 256, 4608])
def test_the_kept_entries_are_those_of_torch_and_ties_are_kept_k_times(width: int) -> None:
    hidden_pre = torch.randn(9, width, generator=torch.Generator().manual_seed(width))
    hidden_pre[3] = -1.0  # nothing is positive
    hidden_pre[4] = 0.5  # all are equal: any k of them
    hidden_pre[5] = hidden_pre[5].round()  # many are
    acts, top = topk_acts(hidden_pre, 8), hidden_pre.topk(8).values.relu()
    assert acts.l0.tolist() == (top > 0).sum(1).tolist()
    dense = acts.to_dense()
    assert torch.equal(dense.topk(8).values, top)
    assert torch.equal(dense[dense > 0], hidden_pre[dense > 0])
