"""What processes that work together tell each other."""

import json
from pathlib import Path

import pytest
import torch
from tests.core.processes import run_on_ranks

from saescope.errors import ArgumentError
from saescope.ranks import ALONE, Ranks, joined

TELL = """
import json, torch
from saescope.ranks import joined
with joined() as ranks:
    half = torch.full((ranks.rank, 2), ranks.rank / 2, dtype=torch.bfloat16)
    print(json.dumps({
        "place": [ranks.rank, ranks.size, ranks.alone, ranks.writes],
        "total": ranks.total(torch.tensor([1.0, 10.0 * ranks.rank])).tolist(),
        "gathered": [part.tolist() for part in ranks.gathered(half)],
        "counts": [part.tolist() for part in ranks.gathered(torch.tensor([7 + ranks.rank]))],
        "each": ranks.each([ranks.rank]),
        "first": ranks.first(f"of {ranks.rank}"),
        "ends": [ranks.least(ranks.rank), ranks.most(ranks.rank)],
    }))
    ranks.wait()
"""


@pytest.mark.parametrize(("rank", "size"), [(4, 4), (-1, 2), (0, 0)])
def test_a_place_that_nobody_has_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ArgumentError, match="There is no rank") as caught:
        Ranks(rank, size)
    assert caught.value.field == "rank" and "from 0" in caught.value.hint


def test_a_process_alone_answers_itself() -> None:
    with joined() as ranks:
        assert ranks == ALONE
    x = torch.tensor([1.0, 2.0])
    assert ranks.alone
    assert ranks.writes
    assert ranks.total(x) is x
    assert ranks.gathered(x) == [x]
    assert ranks.each("it") == ["it"]
    assert ranks.first("it") == "it"
    assert (ranks.least(3.0), ranks.most(3.0)) == (3.0, 3.0)
    ranks.wait()


def test_the_shares_of_all_ranks_are_all_there_is() -> None:
    shares = [list(range(10))[Ranks(rank, 4).share(10)] for rank in range(4)]
    assert shares == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


@pytest.mark.slow
def test_three_processes_tell_each_other_the_same(tmp_path: Path) -> None:
    said = [json.loads(out) for out in run_on_ranks(3, TELL, cwd=tmp_path)]
    assert [each.pop("place") for each in said] == [
        [0, 3, False, True],
        [1, 3, False, False],
        [2, 3, False, False],
    ]
    assert said == 3 * [
        {
            "total": [3.0, 30.0],
            "gathered": [[], [[0.5, 0.5]], [[1.0, 1.0], [1.0, 1.0]]],
            "counts": [[7], [8], [9]],
            "each": [[0], [1], [2]],
            "first": "of 0",
            "ends": [0, 2],
        }
    ]
