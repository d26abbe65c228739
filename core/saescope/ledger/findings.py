"""What kept results say of single features: one reader for each kind of result."""

from collections.abc import Callable, Iterator, Mapping

from saescope.ledger import changed, firing
from saescope.ledger.entry import KeptEntry
from saescope.records.claims import FeatureTest

Reader = Callable[[KeptEntry], Iterator[FeatureTest]]


def findings(entry: KeptEntry) -> list[FeatureTest]:
    """Everything that a result says of features one by one; nothing for one that tests none."""
    read = _READERS.get(entry.tool)
    return [*read(entry)] if read else []


def _found(entry: KeptEntry) -> Iterator[FeatureTest]:
    given = entry.arguments
    if given["causes"]:
        return changed.causes(entry)
    if given["tokens"]:
        return changed.writers(entry)
    return firing.contrast(entry) if entry.document.get("contrast") else iter(())


_READERS: Mapping[str, Reader] = {
    "attribute_logit": changed.attribution,
    "compare_prompts": changed.pair,
    "describe_feature": firing.card,
    "encode_text": firing.tokens,
    "find_features": _found,
    "intervene": changed.intervention,
    "label_feature": firing.label,
    "steer_generate": changed.generation,
    "steer_search": changed.strength,
    "top_features": firing.ranking,
    "trace_circuit": changed.circuit,
}
CHANGING = tuple(tool for tool, read in _READERS.items() if read.__module__ != firing.__name__)
"""Tools whose results may say what a feature does."""
