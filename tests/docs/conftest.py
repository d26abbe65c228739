"""The desk is shared by all tests of documents; what they import takes longer than one of them
may."""

import pytest
from tests.docs.desk import desk, shared_desk

__all__ = ["desk", "shared_desk"]


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    import saescope

    assert all(hasattr(saescope, name) for name in saescope.__all__)
