"""How often features fire in the indexed corpus, beside what they do in a user's texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from saescope.errors import SaescopeError
from saescope_mcp.state import Indexed, LoadedSAE, LoadedStack

if TYPE_CHECKING:
    from saescope.steering import IndexedActivations


class Densities(NamedTuple):
    """The corpus density of each feature whose SAE has an index, by the place of the SAE and by the
    feature, and a warning where an index cannot be read."""

    by_feature: dict[tuple[int, int], float]
    warnings: list[str]


async def activations_of(loaded: LoadedSAE) -> "IndexedActivations | None":
    """How strongly the features of an SAE fire in its indexed corpus."""
    from saescope.steering import activations_in

    index = (await loaded.indexed()).best
    return index and activations_in(index)


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
