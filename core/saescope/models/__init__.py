"""Language models on transformer-lens: loading, tokens, forward passes, and what the unembedding
reads."""

from saescope.devices import pick_device
from saescope.models.fingerprint import has_fingerprint, model_fingerprint
from saescope.models.language_model import SINK_FACTOR, LanguageModel, StopForward
from saescope.models.loading import canonical_name, load_model
from saescope.models.partial import layers_below
from saescope.models.plain import PlainModel, plain_model
from saescope.models.predictions import (
    NamedTarget,
    Target,
    TargetLogit,
    read_token,
    resolve_position,
    top_tokens,
)
from saescope.models.readout import Unembedding
from saescope.models.sizes import peek_model_bytes, peek_n_layers
from saescope.models.tokens import Tokens, counted, first_of_each

__all__ = [
    "SINK_FACTOR",
    "LanguageModel",
    "NamedTarget",
    "PlainModel",
    "StopForward",
    "Target",
    "TargetLogit",
    "Tokens",
    "Unembedding",
    "canonical_name",
    "counted",
    "first_of_each",
    "has_fingerprint",
    "layers_below",
    "load_model",
    "model_fingerprint",
    "peek_model_bytes",
    "peek_n_layers",
    "pick_device",
    "plain_model",
    "read_token",
    "resolve_position",
    "top_tokens",
]
