"""Text to activations: documents, contexts, one forward pass for several hooks, a mixing buffer,
shards on a disk or behind a URL."""

from saescope.activations.columns import ListedText, label_of
from saescope.activations.harvest import Harvester
from saescope.activations.labelled import LabelledDataset, LabelledText, open_labelled
from saescope.activations.listed import read_rows, read_texts
from saescope.activations.passes import GivenRows, NeedRows, PassReader, TextPasses
from saescope.activations.shards import ShardSource
from saescope.activations.sides import read_sides, two_sides
from saescope.activations.sources import RowSource, TextSource
from saescope.activations.store import ActivationStore, StoreConfig
from saescope.activations.text import (
    EMBEDDED,
    HELD_OUT,
    Dataset,
    Split,
    is_held_out,
    open_dataset,
    require_text,
)
from saescope.activations.tokens import (
    ContextConfig,
    ContextStream,
    OwnedContexts,
    counted_positions,
    read_contexts,
    read_owned_contexts,
)
from saescope.activations.writing import cached, store_activations, write_share

__all__ = [
    "EMBEDDED",
    "HELD_OUT",
    "ActivationStore",
    "ContextConfig",
    "ContextStream",
    "Dataset",
    "GivenRows",
    "Harvester",
    "LabelledDataset",
    "LabelledText",
    "ListedText",
    "NeedRows",
    "OwnedContexts",
    "PassReader",
    "RowSource",
    "ShardSource",
    "Split",
    "StoreConfig",
    "TextPasses",
    "TextSource",
    "cached",
    "counted_positions",
    "is_held_out",
    "label_of",
    "open_dataset",
    "open_labelled",
    "read_contexts",
    "read_owned_contexts",
    "read_rows",
    "read_sides",
    "read_texts",
    "require_text",
    "store_activations",
    "two_sides",
    "write_share",
]
