"""What the binder says where only the server that it binds for has the words."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from saescope.errors import SaescopeError


def _own_hint(error: SaescopeError) -> str:
    return error.hint


class Wording(NamedTuple):
    """The words of one server; each has a plain default, which names no tool."""

    text: Callable[[str], str] = str
    """An error's message or a warning of the library, as the tools' user should read it."""
    next_step: Callable[[SaescopeError], str] = _own_hint
    """What to call after an error of the library, or nothing."""
    arguments: Mapping[str, str] = MappingProxyType({})
    """What a tool may call an argument of the library, by the library's name for it."""
    out_of_memory: str = "Use a shorter text."
    """The advice for when memory runs out."""
    still_works: str = "Other calls still work."
    """What a client may do after a crash."""
    at_a_loss: str = "Call again."
    """What to do where nothing better is known."""


PLAIN = Wording()
