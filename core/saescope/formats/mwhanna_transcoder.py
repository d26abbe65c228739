"""mwhanna's Qwen3 transcoders: circuit-tracer sets, under the name that the catalogue has for them."""

from saescope.formats.circuit_tracer import peek, read, wanted

NAME = "mwhanna_transcoder"

__all__ = ["NAME", "matches", "peek", "read", "wanted"]


def matches(names: set[str]) -> bool:
    """Never by its files, which are those of `circuit_tracer`."""
    return False
