"""The attacks: `make attack` runs them all; those without the mark `attack` are quick and run in
`make test` too."""

import os
import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    pass

HERE = Path(__file__).parent
LONGEST_S = 900
"""The most that one test of the long tier may take: `make attack` resumes between tests, not inside
them."""


@dataclass
class Attack:
    """Counts the cases of one test, and goes on after one that failed, so that all that fail are
    told."""

    seed: str
    n_cases: int = 0
    failures: list[str] = field(default_factory=list[str])
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    @contextmanager
    def case(self, name: str) -> Generator[None]:
        """One case, which holds unless the block raises."""
        self.n_cases += 1
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            if "pytest-timeout" in str(error):
                raise
            self.failures.append(f"{name}: {type(error).__name__}: {error}"[:2000])


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Iterator[Attack]:
    """A counter of cases with a random generator of its own, seeded by `ATTACK_SEED` and the test's
    name."""
    counter = Attack(f"{os.environ.get('ATTACK_SEED', '0')} {request.node.nodeid}")
    yield counter
    request.node.user_properties += [
        ("cases", counter.n_cases),
        ("failures", counter.failures),
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    counter = getattr(item, "funcargs", {}).get("attack")
    if isinstance(counter, Attack):
        assert counter.n_cases, "no case was tried"
        n, told = len(counter.failures), "\n".join(counter.failures[:20])
        if n:
            pytest.fail(f"{n} of {counter.n_cases} cases failed:\n{told}", pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("attack"):
            item.add_marker(pytest.mark.timeout(LONGEST_S), append=False)
