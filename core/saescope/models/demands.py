"""What a model's config.json asks for, judged before a weight is read: a family, code of its own,
quantization, sizes."""

from collections.abc import Iterable, Mapping
from typing import Any

from saescope.errors import ModelError

_SIZES = (
    *("hidden_size", "n_embd", "d_model", "vocab_size"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    *("num_attention_heads", "n_head", "n_heads", "num_heads"),
    *("num_key_value_heads", "num_kv_heads", "head_dim"),
    *("max_position_embeddings", "n_positions", "max_seq_len"),
)
"""What no model has none of, where its configuration speaks of it."""
_UNPACKED = ("mxfp4", "fp8", "bitnet")
"""Quantizations that transformers itself can undo, or compute with."""
_PACKED_TENSORS = (
    *(".qweight", ".qzeros", ".absmax", ".SCB", ".weight_packed", ".quant_map"),
    *("_blocks", ".weight_scale_inv", ".g_idx"),
)


def check_demands(config: Mapping[str, Any], name: str) -> None:
    """That a model of this configuration can be loaded with transformers' own code, and its weights
    read as they are stored.

    Raises:
        ModelError: REMOTE_CODE_REFUSED, UNSUPPORTED_MODEL, QUANTIZED_MODEL, MODEL_CONFIG_INVALID.
    """
    _check_family(config, name)
    method = quantization(config)
    if method and method.split()[0] not in _UNPACKED:
        raise is_quantized(name, method)
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping):
            _check_sizes(part, name)


def check_decoder(config: Any, name: str) -> None:
    """That the model predicts each token from those before it: half of an encoder-decoder lacks the
    head, or is another model.

    Raises:
        ModelError: UNSUPPORTED_MODEL.
    """
    # A stray switch in the configuration of GPT-2 makes no encoder of it; BART's decoder alone says
    # that it is none.
    if config.is_encoder_decoder and getattr(type(config), "is_encoder_decoder", False):
        raise ModelError(
            f"The model {name!r} ({config.model_type}) is an encoder-decoder: it reads "
            "a text in one half and writes in the other.",
            code="UNSUPPORTED_MODEL",
            field="model",
            got=name,
            allowed="models with a decoder alone",
            hint="Use a causal language model that both transformers and transformer-lens hold.",
        )


def quantization(model_config: Mapping[str, Any]) -> str:
    """How the weights are quantized, as "gptq (4 bits)"; empty if they are not."""
    inner = model_config.get("text_config")
    parts = [model_config, inner] if isinstance(inner, Mapping) else [model_config]
    for part in parts:
        config = part.get("quantization_config") or part.get("compression_config")
        if isinstance(config, Mapping):
            return _method(config)
    return ""


def is_quantized(name: str, method: str, cause: str = "") -> ModelError:
    return ModelError(
        f"The weights of the model {name!r} are quantized with {method}, which "
        f"saescope does not read{f': {cause}' if cause else '.'}",
        code="QUANTIZED_MODEL",
        field="model",
        got=method,
        allowed="weights in float32, bfloat16 or float16, or a GGUF file",
        hint="Use the model that it was made from, which SAEs are trained on; or, with the "
        "library that quantized it, "
        "write it out with model.dequantize() and save_pretrained.",
    )


def has_packed_tensors(names: Iterable[str]) -> bool:
    """Whether files of weights hold what only quantized ones do; old GPTQ and AWQ folders say
    nothing in config.json."""
    return any(name.endswith(_PACKED_TENSORS) for name in names)


def _check_family(config: Mapping[str, Any], name: str) -> None:
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    family = config.get("model_type")
    held = isinstance(family, str) and family in CONFIG_MAPPING
    if config.get("auto_map") and not (held and family in CAUSAL):
        raise needs_code(name, f"transformers holds no causal language model {family!r}")
    if not family or not isinstance(family, str):
        raise ModelError(
            f"config.json of {name!r} names no family of models (model_type is {family!r}).",
            code="MODEL_CONFIG_INVALID",
            field="model",
            got=family,
            allowed="a model_type that transformers holds",
            hint="Put the model_type of the model that it is into config.json, or get the "
            "model again.",
        )
    if not held:
        raise ModelError(
            f"{name!r} is of the family {family!r}, which transformers {__version__} "
            "does not hold.",
            code="UNSUPPORTED_MODEL",
            field="model",
            got=family,
            hint="Use a causal language model that both transformers and transformer-lens "
            "hold; a newer transformers may hold it.",
        )


def needs_code(name: str, why: str) -> ModelError:
    return ModelError(
        f"The model {name!r} needs its own code, and saescope runs none: {why}.",
        code="REMOTE_CODE_REFUSED",
        field="model",
        got=name,
        hint="Use a model that transformers holds natively.",
    )


def _method(config: Mapping[str, Any]) -> str:
    loads = {4: config.get("load_in_4bit"), 8: config.get("load_in_8bit")}
    bits = next((n for n, so in loads.items() if so), config.get("bits") or config.get("w_bit"))
    unnamed = "bitsandbytes" if any(loads.values()) else "an unnamed method"
    method = str(config.get("quant_method") or unnamed)[:80]
    return f"{method} ({bits} bits)" if isinstance(bits, int) else method


def _check_sizes(config: Mapping[str, Any], name: str) -> None:
    for field in _SIZES:
        value = config.get(field)
        if value is None or isinstance(value, list | dict):  # some families say it for each layer
            continue
        if type(value) is not int or value < 1:
            raise ModelError(
                f"config.json of the model {name!r} says {field}={str(value)[:40]!r}; "
                "it must be a whole number of at least 1.",
                code="MODEL_CONFIG_INVALID",
                field="model",
                got=str(value)[:40],
                allowed="a whole number of at least 1",
                hint="Get config.json again.",
            )
