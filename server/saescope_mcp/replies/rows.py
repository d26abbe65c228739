"""A record as a reply shows it: its own fields, and what only the server knows of it."""

from dataclasses import fields
from typing import Any, TypedDict, TypeVar

from saescope.records.labels import ShortLabel
from saescope_mcp.replies.facts import feature_url
from saescope_mcp.replies.labels import StackLabels
from saescope_mcp.state import LoadedStack

Kind = TypeVar("Kind")


class Names(TypedDict):
    """How a feature is called."""

    sae: str | None
    """The handle of its SAE, where there are several."""
    label: ShortLabel | None
    url: str | None


def extended(kind: type[Kind], record: object, **added: object) -> Kind:
    """The record as a kind that inherits the fields of its class; `added` has what the kind adds,
    and what it says otherwise."""
    # A dataclass, or a model on top of one.
    inherited: Any = fields(kind)  # pyright: ignore[reportArgumentType]
    own = {each.name: getattr(record, each.name) for each in inherited if each.name not in added}
    return kind(**own, **added)


def names_of(stack: LoadedStack, labels: StackLabels, sae: int, feature: int) -> Names:
    """How a feature is called, which is given by the place of its SAE and by its index."""
    return {
        "sae": stack.handle(sae),
        "label": labels.by_feature.get((sae, feature)),
        "url": feature_url(stack.entries[sae], feature),
    }
