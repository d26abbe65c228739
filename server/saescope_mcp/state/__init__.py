"""What the server holds: models and SAEs by handle, within a memory budget, one call at a time per
model."""

from saescope_mcp.state.app_state import AppState
from saescope_mcp.state.entries import Indexed, LoadedSAE, LoadedSet, void_quizzes
from saescope_mcp.state.fences import readable, reading, said_roots, trained_saes, writable
from saescope_mcp.state.showing import Showing
from saescope_mcp.state.sources import (
    Placement,
    Source,
    dataset_name,
    load_call,
    model_name,
)
from saescope_mcp.state.stacks import LoadedStack
from saescope_mcp.state.texts import Given, check_contrast_room, given_texts, hash_of

__all__ = [
    "AppState",
    "Given",
    "Indexed",
    "LoadedSAE",
    "LoadedSet",
    "LoadedStack",
    "Placement",
    "Showing",
    "Source",
    "check_contrast_room",
    "dataset_name",
    "given_texts",
    "hash_of",
    "load_call",
    "model_name",
    "readable",
    "reading",
    "said_roots",
    "trained_saes",
    "void_quizzes",
    "writable",
]
