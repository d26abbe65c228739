import pytest
import torch

from saescope.products import times_rows
from saescope.training.steps.encoder import above, join


@pytest.mark.parametrize("width", [96, 101])
def test_above_finds_every_entry_in_row_order(width: int) -> None:
    values = torch.randn(20, width, generator=torch.Generator().manual_seed(width))
    kept = join([above(part, 0.8) for part in values.split(7)], width)
    dense = torch.zeros(20, width)
    dense[kept.positions.long(), kept.features.long()] = kept.values
    assert torch.equal(dense, torch.where(values > 0.8, values, 0.0))
    assert kept.offsets.diff().tolist() == (values > 0.8).sum(1).tolist()


def test_nothing_above_is_an_empty_support() -> None:
    kept = join([above(torch.zeros(3, 8), 1.0)], 8)
    assert len(kept.values) == 0
    assert kept.offsets.tolist() == [0, 0, 0, 0]


def test_products_are_plain_float32_also_of_transposed_views() -> None:
    torch.manual_seed(0)
    a, rows, bias = torch.randn(33, 50), torch.randn(20, 50), torch.randn(20)
    wanted = a.double() @ rows.double().T
    assert torch.allclose(times_rows(a, rows, bias).double(), wanted + bias, atol=1e-4)
    assert torch.allclose(times_rows(a.T.contiguous().T, rows).double(), wanted, atol=1e-4)
    assert torch.allclose(
        times_rows(rows.T, a.new_ones(3, 20)).double(),
        rows.T.double().sum(1, keepdim=True).expand(-1, 3),
        atol=1e-4,
    )
