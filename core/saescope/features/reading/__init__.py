"""Features on texts: token by token, and searched for by what they fire on."""

from saescope.features.reading.encode import Encoded, TextFeatures, encode_stack, encode_texts
from saescope.features.reading.firings import NamedFirings, find_firings
from saescope.features.reading.passages import TextPassage, dataset_passages, text_passages
from saescope.features.reading.search import find_by_label, find_by_texts

__all__ = [
    "Encoded",
    "NamedFirings",
    "TextFeatures",
    "TextPassage",
    "dataset_passages",
    "encode_stack",
    "encode_texts",
    "find_by_label",
    "find_by_texts",
    "find_firings",
    "text_passages",
]
