"""How often features fire in the indexed corpus, beside what they do in a user's texts."""

from collections.abc import Sequence
from typing import NamedTuple

from saescope.errors import SaescopeError
from saescope_mcp.state import Indexed, LoadedStack


class Densities(NamedTuple):
    """The corpus density of each feature whose SAE has an index, by the place of the SAE and by the
    feature, and a warning where an index cannot be read."""

    by_feature: dict[tuple[int, int], float]
    warnings: list[str]


async def densities_of_stack(stack: LoadedStack, features: Sequence[tuple[int, int]]) -> Densities:
    """The densities of features, each named by the place of its SAE in the stack and by its
    index."""
    indexed = [await entry.indexed() for entry in stack.entries]
    return await stack.slot.workers.run(lambda: _densities(indexed, features))


def _densities(indexed: Sequence[Indexed], features: Sequence[tuple[int, int]]) -> Densities:
    try:
        return Densities(
            {
                (n, feature): index.density(feature)
                for n, feature in features
                if (index := indexed[n].best) is not None
            },
            [],
        )
    except SaescopeError as error:
        # An index that cannot be read must not fail a call that is about something else.
        return Densities({}, [f"The index cannot be read: {error.message}"])
