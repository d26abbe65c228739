"""Which computation a model is: every bit of its weights, its configuration, its tokenizer."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saescope.cancel import stop_if_cancelled
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
_Versions = tuple[tuple[int, int], ...]
_known: WeakKeyDictionary[LanguageModel, tuple[_Versions, str]] = WeakKeyDictionary()


def model_fingerprint(model: LanguageModel) -> str:
    """Changes when the weights do, their dtype, the configuration or the tokenizer; not with the
    name, the place or the device.

    The weights are hashed again once one was written to (about a second a gigabyte); a change by
    way of `tensor.data` after the first call is not seen.
    """
    tensors = dict(_tensors(model.bridge.original_model))
    versions = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
    before, fingerprint = _known.get(model, ((), ""))
    if not fingerprint or before != versions:
        fingerprint = _hash(model, tensors)
        _known[model] = versions, fingerprint
    return fingerprint


def _hash(model: LanguageModel, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        stop_if_cancelled()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bits(tensor))
    config = model.bridge.original_model.config.to_diff_dict()
    digest.update(_text(_settings(config)).encode())
    digest.update(_text(_of_tokenizer(model.tokenizer)).encode())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the buffers that files have; others are computed, some anew in each pass."""
    yield from module.named_parameters()
    for place, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in vars(part)["_non_persistent_buffers_set"]:
                yield f"{place}.{name}", buffer


def _bits(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


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
