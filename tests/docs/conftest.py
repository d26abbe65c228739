"""The desk is shared by all tests of documents."""

from tests.docs.desk import desk, shared_desk

__all__ = ["desk", "shared_desk"]
