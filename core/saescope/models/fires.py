"""What a model shows in its first passes: how often each hook fires, which have a vector at each
position, if padding is heeded."""

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class Fires:
    """What was seen in one pass, by every name of a hook; empty until then."""

    times: Mapping[str, int] = field(default_factory=dict[str, int])
    sites: frozenset[str] = frozenset()
    """Hooks that fired once, with a vector at each position: those that can be recorded and
    edited."""
    padded: bool = True
    """Whether a row that is padded on the left gives what it gives alone."""


@contextmanager
def watching(bridge: Any, shape: tuple[int, int]) -> Generator[Fires]:
    """Fills what it yields with what fires in the block, one forward pass over ids of that
    shape."""
    times, shaped, fires = Counter[int](), set[int](), Fires()

    def see(point: Any, args: tuple[Any, ...]) -> None:
        times[id(point)] += 1
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.ndim > 2 and tuple(x.shape[:2]) == shape:
            shaped.add(id(point))

    named: dict[str, Any] = bridge.hook_dict
    points = {id(point): point for point in named.values()}
    handles = [point.register_forward_pre_hook(see) for point in points.values()]
    try:
        yield fires
    finally:
        for handle in handles:
            handle.remove()
    fires.times = {name: times[id(point)] for name, point in named.items()}
    fires.sites = frozenset(
        name for name, point in named.items() if times[id(point)] == 1 and id(point) in shaped
    )
