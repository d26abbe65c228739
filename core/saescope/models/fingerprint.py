"""Which computation a model is: every bit of its weights, its configuration, its tokenizer."""

import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from saescope.models.language_model import LanguageModel
from saescope.models.tokens import Tokenizer
from saescope.models.weights import weights_digest

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
_known: WeakKeyDictionary[LanguageModel, tuple[str, str]] = WeakKeyDictionary()
"""The fingerprint of a model while its weights have a hash."""


def model_fingerprint(model: LanguageModel) -> str:
    """Changes when the weights do, their dtype, the configuration or the tokenizer; not with the
    name, the place or the device.

    The weights are hashed again once one was written to; a change by way of `tensor.data` after the
    first call is not seen.
    """
    digest = weights_digest(model.bridge.original_model)
    weights = digest.hexdigest()
    before, fingerprint = _known.get(model, ("", ""))
    if before != weights:
        config = model.bridge.original_model.config.to_diff_dict()
        digest.update(_text(_settings(config)).encode())
        digest.update(_text(_of_tokenizer(model.tokenizer)).encode())
        fingerprint = digest.hexdigest()
        _known[model] = weights, fingerprint
    return fingerprint


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
