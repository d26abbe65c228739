"""Which computation a model is: every bit of its weights, its configuration, its tokenizer."""

import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from saescope.models.language_model import LanguageModel
from saescope.models.tokens import Tokenizer

_NAMES = (
    "architectures",
    "auto_map",
    "dtype",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
)
"""What a configuration says that changes no number: names, versions, the dtype on disk (that in use
is the tensors')."""
_PASSING = ("padding", "truncation")
"""What a tokenizer keeps of its last call."""
_known: WeakKeyDictionary[LanguageModel, dict[int, tuple[str, str]]] = WeakKeyDictionary()
"""The fingerprints of a model's first layers, while their weights have a hash."""


def model_fingerprint(model: LanguageModel, n_layers: int | None = None) -> str:
    """Changes when the weights do, their dtype, the configuration or the tokenizer; not with the
    name, the place or the device. That of the first `n_layers` alone begins with their number, as
    does that of a model that has no more of them loaded.

    The weights are hashed again once one was written to; a change by way of `tensor.data` after the
    first call is not seen.
    """
    n_layers = model.n_loaded if n_layers is None else min(n_layers, model.n_loaded)
    digest, known = model.digest(n_layers), _known.setdefault(model, {})
    weights = digest.hexdigest()
    before, fingerprint = known.get(n_layers, ("", ""))
    if before != weights:
        config = model.bridge.original_model.config.to_diff_dict()
        digest.update(_text(_settings(config)).encode())
        digest.update(_text(_of_tokenizer(model.tokenizer)).encode())
        first = "" if n_layers == model.n_layers else f"{n_layers}:"
        fingerprint = first + digest.hexdigest()
        known[n_layers] = weights, fingerprint
    return fingerprint


def has_fingerprint(model: LanguageModel, fingerprint: str) -> bool | None:
    """Whether it is this model's, or that of its first layers; None where more of them would have
    to be loaded to tell."""
    first, of_some, _ = fingerprint.partition(":")
    n_layers = int(first) if of_some and first.isdigit() else model.n_layers
    if n_layers > model.n_loaded:
        return None
    return model_fingerprint(model, n_layers) == fingerprint


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): _settings(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in _NAMES and not str(name).startswith("_")
    }


def _of_tokenizer(tokenizer: Tokenizer) -> list[Any]:
    """How text becomes tokens, and which are special."""
    hf = tokenizer.hf
    state = json.loads(hf.backend_tokenizer.to_str()) if hf.is_fast else {"vocab": hf.get_vocab()}
    lasting = {name: state[name] for name in state if name not in _PASSING}
    ids = [tokenizer.bos_id, tokenizer.eos_id, *tokenizer.special_ids.tolist()]
    return [lasting, ids, tokenizer.adds_bos]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
