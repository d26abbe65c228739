"""One to one: the assignment of rows to columns that has the largest sum of scores."""

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

Edges = Sequence[Mapping[int, float]]
"""For each row its columns, with their scores; a pair that is not there is never made."""


def assign(edges: Edges, n_columns: int) -> list[int | None]:
    """The column of each row, or None; scores are above zero, so that a row without a column adds
    nothing.

    The Hungarian method on what is there alone: shortest augmenting paths (Jonker and Volgenant
    1987, as in Crouse 2016, doi:10.1109/TAES.2016.140952). The dense one of scipy, which is no
    dependency of any of ours, would take a matrix of all pairs.
    """
    # Column n_columns + row is "none", which each row has for itself at no cost.
    costs = [
        {**{j: -score for j, score in row.items()}, n_columns + i: 0.0}
        for i, row in enumerate(edges)
    ]
    state = _Duals([0.0] * len(costs), [0.0] * (n_columns + len(costs)))
    column_of, row_of = [-1] * len(costs), dict[int, int]()
    for row in range(len(costs)):
        _augment(row, costs, state, column_of, row_of)
    return [column if column < n_columns else None for column in column_of]


class _Duals:
    """What a row and a column take off the cost of a pair."""

    def __init__(self, rows: list[float], columns: list[float]) -> None:
        self.rows, self.columns = rows, columns


def _augment(
    start: int,
    costs: Sequence[Mapping[int, float]],
    duals: _Duals,
    column_of: list[int],
    row_of: dict[int, int],
) -> None:
    """Give row `start` a column, moving others along the cheapest path."""
    distance, came_from = dict[int, float](), dict[int, int]()
    heap, done, row, reached = list[tuple[float, int]](), set[int](), start, 0.0
    while True:
        for column, cost in costs[row].items():
            through = reached + cost - duals.rows[row] - duals.columns[column]
            if column not in done and through < distance.get(column, float("inf")):
                distance[column], came_from[column] = through, row
                heappush(heap, (through, column))
        reached, column = heappop(heap)
        while column in done:  # a longer way to it, pushed earlier
            reached, column = heappop(heap)
        done.add(column)
        if column not in row_of:
            break
        row = row_of[column]
    duals.rows[start] += reached
    for seen in done - {column}:
        duals.rows[row_of[seen]] += reached - distance[seen]
        duals.columns[seen] -= reached - distance[seen]
    while True:
        row = came_from[column]
        row_of[column], column_of[row], column = row, column, column_of[row]
        if row == start:
            return
