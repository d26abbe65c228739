"""SAELens on disk: `cfg.json` (version 6, and the flat legacy form before it) and
`sae_weights.safetensors`."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from functools import reduce
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from saescope.errors import ConfigError, FormatError
from saescope.formats.agreement import agree, contradiction, layer_in
from saescope.formats.beside import check_claims, refuse_changes
from saescope.formats.dialect import Dialect, folder_with, inside
from saescope.formats.hf_sites import hook_of, origin
from saescope.formats.recipe import Recipe, Stored, in_words
from saescope.formats.source import FileSource
from saescope.formats.weights import DTYPES, TensorInfo, read_header
from saescope.names import nearest
from saescope.notices import tell
from saescope.saes import ARCHITECTURES, SAEConfig, SAEMetadata
from saescope.saes.base import check_shapes
from saescope.saes.disk import CFG_FILE, WEIGHTS_FILE, disk_name

NAME = "sae_lens"
FILES = (CFG_FILE, WEIGHTS_FILE)
RUNNER_FILE = "runner_cfg.json"
"""What sae-lens's training run was asked for; beside an SAE that it trained."""
ROWS = 256
"""So many rows of a matrix are compared at once."""
_CHOICES = {
    "normalize_activations": (
        "none",
        "expected_average_only_in",
        "constant_norm_rescale",
        "layer_norm",
        "covariance_whitening",
        "constant_scalar_rescale",
    ),
    "reshape_activations": ("none", "hook_z"),
    "dtype": ("float64", "float32", "float16", "bfloat16"),
}
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("d_in", "d_sae", "d_out"), (int,)),
    **dict.fromkeys(("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"), (bool,)),
    "k": (int, float),
}
_BY_DISK_NAME = {
    disk_name(architecture, transcoder=transcoder, skip=skip): (architecture, transcoder, skip)
    for transcoder, skip in ((False, False), (True, False), (True, True))
    for architecture in ARCHITECTURES
}
_REQUIRED = ("architecture", "d_in", "d_sae")
_TRAINING_ONLY = {
    *(
        "decoder_init_norm",
        "l1_coefficient",
        "lp_norm",
        "l1_warm_up_steps",
        "use_sparse_activations",
        "aux_loss_coefficient",
    ),
    *(
        "topk_threshold_lr",
        "use_matryoshka_aux_loss",
        "jumprelu_init_threshold",
        "jumprelu_bandwidth",
        "jumprelu_sparsity_loss_mode",
    ),
    *(
        "l0_coefficient",
        "l0_warm_up_steps",
        "pre_act_loss_coefficient",
        "jumprelu_tanh_scale",
        "jumprelu_ste_to_input",
        "target_l0",
    ),
}
_NOT_METADATA = {*_CHOICES, "norm_scaling_factor", "gate"}
_KNOBS = ("k", "rescale_acts_by_decoder_norm", "matryoshka_widths")
_LEGACY_NAMES = {
    "hook_point": "hook_name",
    "hook_point_out": "hook_name_out",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_ARCHITECTURES_OF: dict[str, tuple[object, ...]] = {
    # Before it had a word for TopK, SAELens called every SAE without a gate "standard".
    "topk": ("topk", "standard"),
    "relu": tuple(name for name in _BY_DISK_NAME if "topk" not in name),
}
_LEGACY_METADATA = {
    *(
        "model_name",
        "hook_name",
        "hook_name_out",
        "hook_head_index",
        "hook_head_index_out",
        "hf_hook_name",
        "hf_hook_name_out",
    ),
    *(
        "prepend_bos",
        "context_size",
        "neuronpedia_id",
        "dataset_path",
        "model_class_name",
        "model_from_pretrained_kwargs",
    ),
    *("seqpos_slice", "exclude_special_tokens"),
}


def _recipe(source: FileSource) -> Recipe:
    header = read_header(source, source.at(WEIGHTS_FILE))
    settings = source.json(source.at(CFG_FILE))
    if source.exists(source.at(RUNNER_FILE)):
        _check_runner(settings, source.json(source.at(RUNNER_FILE)))
    known = {key: value for key, value in source.known.items() if key not in _NOT_METADATA}
    choices = {key: source.known[key] for key in _CHOICES if key in source.known}
    _check_agreement(settings, _object(settings, "metadata"))
    settings = settings | choices | {"metadata": _object(settings, "metadata") | known}
    cfg = parse_config(settings, set(header))
    _check_widths(cfg, header)
    check_claims(source, cfg, {"metadata": _object(settings, "metadata")}, CFG_FILE)
    # Every tensor is read, as it lies there: the SAE itself refuses what is missing or too much.
    stored = {name: Stored(name, shape=info.shape) for name, info in header.items()}
    factor = _scale_of_training(source, cfg)
    claimed, cfg = cfg.dtype, replace(cfg, dtype=_dtype_of(cfg, header))
    return Recipe(
        cfg=replace(cfg, normalize_activations="none") if factor else cfg,
        file=source.at(WEIGHTS_FILE),
        stored=stored,
        fix=lambda tensors: _to_inference(tensors, factor, claimed=claimed, stored=cfg.dtype),
    )


def _dtype_of(cfg: SAEConfig, header: Mapping[str, TensorInfo]) -> str:
    """The dtype that cfg.json names, or that of the weights (at most float32) where it cannot hold
    them: nothing is rounded unasked."""
    claimed = getattr(torch, cfg.dtype)
    there = {DTYPES[info.dtype] for info in header.values() if info.dtype in DTYPES}
    narrow = {torch.float32 if dtype == torch.float64 else dtype for dtype in there}
    wide = reduce(torch.promote_types, narrow or {claimed})
    fits = torch.promote_types(wide, claimed) == claimed
    return cfg.dtype if fits else str(wide).removeprefix("torch.")


def _tell_of_rounding(tensors: Mapping[str, Tensor], claimed: str, stored: str) -> None:
    """Say so where the weights, read as they are, differ from what sae-lens makes of them."""
    narrow = getattr(torch, claimed)
    for name, tensor in tensors.items():
        if any(
            not torch.equal(part, part.to(narrow).to(part))
            for part in torch.atleast_1d(tensor).split(ROWS)
        ):
            tell(
                f"{name} in {WEIGHTS_FILE} holds {stored} values that the {claimed} of {CFG_FILE} "
                f'rounds: read as they are; dtype="{claimed}" rounds them as sae-lens does.'
            )
            return


def _check_widths(cfg: SAEConfig, header: Mapping[str, TensorInfo]) -> None:
    """Raise where a tensor of the file has not the shape that follows from the configuration; one
    threshold may stand for all."""
    shapes = ARCHITECTURES[cfg.architecture][1].shapes(cfg)
    # A tensor of another type is refused for that, when it is read.
    here = {
        name: info
        for name, info in header.items()
        if name in shapes and info.shape and info.dtype in DTYPES
    }
    check_shapes({name: shapes[name] for name in here}, here)


def _scale_of_training(source: FileSource, cfg: SAEConfig) -> float:
    """The factor that the catalogue knows, which the weights take over; 0 where there is none to
    take over."""
    by_average = cfg.normalize_activations == "expected_average_only_in"
    return float(source.known.get("norm_scaling_factor") or 0) if by_average else 0.0


def parse_config(settings: dict[str, Any], tensor_names: set[str]) -> SAEConfig:
    """Make our configuration of what `cfg.json` says.

    Raises:
        ConfigError: a key is missing, unknown or has a value that is not allowed.
    """
    metadata = _object(settings, "metadata")
    version = str(settings.get("sae_lens_version") or metadata.get("sae_lens_version") or "0")
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < 6:
        settings = _modernise(settings, tensor_names)
    else:
        settings = _without_repeated_metadata(settings, metadata)
    _require(settings, _REQUIRED)
    kind, architecture, transcoder, skip = _architecture(str(settings["architecture"]))
    _require(
        settings,
        [
            field.name
            for field in fields(kind)
            if field.default is MISSING and field.default_factory is MISSING
        ],
    )
    values = {
        name: settings[name] for name in {field.name for field in fields(kind)} & settings.keys()
    }
    values |= {
        "architecture": architecture,
        "transcoder": transcoder,
        "skip": skip,
        "metadata": _metadata(settings.get("metadata") or {}),
    }
    values["dtype"] = str(settings.get("dtype", "float32")).removeprefix("torch.")
    if architecture == "matryoshka_batchtopk":
        widths = tuple(_widths(settings))
        values["matryoshka_widths"] = (
            widths if widths[-1:] == (settings["d_sae"],) else (*widths, settings["d_sae"])
        )
    _check_values(
        values,
        settings.keys()
        - values.keys()
        - _TRAINING_ONLY
        - {"device", "metadata", "sae_lens_version"},
    )
    if "batchtopk" in architecture:
        values["k"] = float(values["k"])
    return kind(**values)


def _check_agreement(settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """What cfg.json says twice, in today's words, yesterday's, or in its metadata."""
    facts: dict[str, tuple[str, object]] = {}
    for prefix, part in (("", settings), ("metadata.", metadata)):
        for key, value in part.items():
            claim = (f"{CFG_FILE}: {prefix}{key}", _plain(value))
            agree(facts.setdefault(_LEGACY_NAMES.get(key, key), claim), claim)
    value = {name: claim[1] for name, claim in facts.items()}
    for key in ("hook_layer", "hook_point_layer"):
        _check_layer(facts.get("hook_name"), facts.get(key))
    kwargs = value.get("activation_fn_kwargs")
    inner = kwargs.get("k") if isinstance(kwargs, dict) else None
    agree((f"{CFG_FILE}: k", value.get("k")), (f"{CFG_FILE}: activation_fn_kwargs.k", inner))
    d_in, times = value.get("d_in"), value.get("expansion_factor")
    if isinstance(d_in, int) and isinstance(times, int | float):
        width = (f"{CFG_FILE}: d_in * expansion_factor", d_in * times)
        agree((f"{CFG_FILE}: d_sae", value.get("d_sae")), width)
    hook_name = str(value.get("hook_name") or "")
    if value.get("reshape_activations") == "hook_z" and hook_name and not hook_name.endswith("_z"):
        raise contradiction((f"{CFG_FILE}: reshape_activations", "hook_z"), facts["hook_name"])
    architecture, activation = value.get("architecture"), value.get("activation_fn")
    allowed = _ARCHITECTURES_OF.get(str(activation), (architecture,))
    if None not in (architecture, activation) and architecture not in allowed:
        raise contradiction(facts["architecture"], facts["activation_fn"])
    _check_transcoder(facts)


def _check_transcoder(facts: Mapping[str, tuple[str, object]]) -> None:
    """What writes elsewhere than it reads is a transcoder: read as an SAE of its input it would be
    wrong."""
    architecture = facts.get("architecture", (f"{CFG_FILE}: architecture", "standard"))
    if "transcoder" in str(architecture[1]):
        return
    claims = {key: facts.get(key, ("", None)) for key in ("is_transcoder", "hook_name_out")}
    if claims["is_transcoder"][1]:
        raise contradiction(architecture, claims["is_transcoder"])
    if claims["hook_name_out"][1] not in (None, "", facts.get("hook_name", ("", None))[1]):
        raise contradiction(architecture, claims["hook_name_out"])


def _plain(value: object) -> object:
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _check_layer(hook_name: tuple[str, object] | None, layer: tuple[str, object] | None) -> None:
    if hook_name and layer and layer_in(hook_name[1]) is not None:
        agree((f"the layer in {hook_name[0]}", layer_in(hook_name[1])), layer)


def _check_runner(settings: Mapping[str, Any], runner: Mapping[str, Any]) -> None:
    """That it is an SAE on the same head; the rest is compared as in any neighbour."""
    key, metadata = "hook_head_index", _object(settings, "metadata")
    claim = settings.get(key, metadata.get(key))
    agree((f"{CFG_FILE}: {key}", claim), (f"{RUNNER_FILE}: {key}", runner.get(key)))


def _without_repeated_metadata(
    settings: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Keys of the metadata may stand above it as well: they are equal, or the file would have been
    refused."""
    own = {field.name for kind, _ in ARCHITECTURES.values() for field in fields(kind)}
    outside = {key for key in settings if key in _LEGACY_METADATA or key in metadata} - own
    rest = {key: value for key, value in settings.items() if key not in outside}
    return rest | {"metadata": {key: settings[key] for key in sorted(outside)} | dict(metadata)}


def _require(settings: Mapping[str, Any], keys: Iterable[str]) -> None:
    missing = [key for key in keys if key not in settings]
    if missing:
        raise ConfigError(
            f"{CFG_FILE} lacks {', '.join(missing)}.",
            field=missing[0],
            hint=f"Add {missing[0]!r} to {CFG_FILE}.",
        )


def _object(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = settings.get(key)
    if value is not None and not isinstance(value, dict):
        raise ConfigError(
            f"{CFG_FILE}: {key} must be an object, got {value!r}.", field=key, got=value
        )
    return value or {}


def _widths(settings: Mapping[str, Any]) -> list[int]:
    widths = settings["matryoshka_widths"]
    if not isinstance(widths, list) or not all(type(width) is int for width in widths):
        raise ConfigError(
            f"{CFG_FILE}: matryoshka_widths must be a list of whole numbers, got {widths!r}.",
            field="matryoshka_widths",
            got=widths,
            allowed="a list of whole numbers",
        )
    return widths


def _architecture(name: str) -> tuple[type[SAEConfig], str, bool, bool]:
    """Config class, our architecture, whether it is a transcoder, and whether that has a skip
    connection."""
    if name not in _BY_DISK_NAME:
        raise ConfigError(
            f"Architecture {name!r} is not supported.",
            code="UNSUPPORTED_ARCHITECTURE",
            field="architecture",
            got=name,
            allowed=[*_BY_DISK_NAME],
            hint="If it is one of these under another name, write that in "
            f"{CFG_FILE}{_nearest(name)}.",
        )
    architecture, transcoder, skip = _BY_DISK_NAME[name]
    return ARCHITECTURES[architecture][0], architecture, transcoder, skip


def _nearest(name: str) -> str:
    close = nearest(name, _BY_DISK_NAME, 1)
    return f": {close[0]} is nearest" if close else ""


def _check_values(values: Mapping[str, Any], unknown: set[str]) -> None:
    if unknown:
        raise ConfigError(
            f"{CFG_FILE} has keys that saescope does not know: {sorted(unknown)}. They "
            "may change what the SAE computes.",
            hint="If they do not, move them into its 'metadata'.",
        )
    for name, allowed in _CHOICES.items():
        if name in values and values[name] not in allowed:
            raise ConfigError(
                f"{CFG_FILE}: {name} must be one of {allowed}, got {values[name]!r}.",
                field=name,
                got=values[name],
                allowed=allowed,
            )
    _check_types(values, _TYPES)
    for name in ("d_in", "d_sae", "d_out"):
        if values.get(name, 1) < 1:
            raise ConfigError(
                f"{CFG_FILE}: {name} must be positive, got {values[name]}.",
                field=name,
                got=values[name],
            )


def _check_types(settings: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    # type() and not isinstance: true is no width, and "false" is no false.
    for name, kinds in types.items():
        if name in settings and type(settings[name]) not in kinds:
            allowed = in_words(kinds)
            raise ConfigError(
                f"{CFG_FILE}: {name} must be {allowed}, got {settings[name]!r}.",
                field=name,
                got=settings[name],
                allowed=allowed,
            )


def _metadata(fields_: Mapping[str, Any]) -> SAEMetadata:
    kwargs = _object(fields_, "model_from_pretrained_kwargs")
    _check_types(fields_, {"prepend_bos": (bool, NoneType), "context_size": (int, NoneType)})
    _check_slice(fields_.get("seqpos_slice"))
    if kwargs.get("trust_remote_code"):
        raise FormatError(
            f"{CFG_FILE} asks for trust_remote_code=True: that would run code from a repository.",
            code="REMOTE_CODE_REFUSED",
            hint=f"Remove it from model_from_pretrained_kwargs in {CFG_FILE} if the model "
            "does not need it.",
        )
    for key in ("hook_head_index", "hook_head_index_out"):
        if fields_.get(key) is not None:
            raise ConfigError(
                f"SAEs on a single attention head are not supported: {key} is {fields_[key]!r}.",
                code="UNSUPPORTED_ARCHITECTURE",
                field=key,
                got=fields_[key],
                allowed="null",
            )
    hook_names, modules = _sites(fields_)
    return SAEMetadata(
        model_name=str(fields_.get("model_name") or ""),
        hook_name=hook_names[0],
        hook_name_out=hook_names[1],
        prepend_bos=fields_.get("prepend_bos"),
        context_size=fields_.get("context_size"),
        neuronpedia_id=str(fields_.get("neuronpedia_id") or ""),
        center_writing_weights=bool(kwargs.get("center_writing_weights", False)),
        fold_value_biases=bool(fields_.get("fold_value_biases")),
        note=str(fields_.get("note") or ""),
        raw=dict(fields_) | modules,
    )


def _check_slice(value: object) -> None:
    """What Python's slice() takes, as a list."""
    if value is None:
        return
    if not (
        isinstance(value, list)
        and 1 <= len(value) <= 3
        and all(part is None or type(part) is int for part in value)
        and value[2:] != [0]
    ):
        allowed = "a list of one to three whole numbers or null"
        raise ConfigError(
            f"{CFG_FILE}: seqpos_slice must be {allowed}, got {value!r}.",
            field="seqpos_slice",
            got=value,
            allowed=allowed,
        )


def _sites(settings: Mapping[str, Any]) -> tuple[tuple[str, str], dict[str, str]]:
    """Names of hooks; with the model class AutoModelForCausalLM they are modules, whose output
    sae-lens takes."""
    read, written = (str(settings.get(key) or "") for key in ("hook_name", "hook_name_out"))
    if (
        "hook_" in read
        or "hf_module" in settings
        or not (modules := origin(read, "output", writes=written))
    ):
        return (read, written), {}
    model_name = str(settings.get("model_name") or "")
    return (
        hook_of(read, "output", model_name),
        hook_of(written, "output", model_name) if written else "",
    ), modules


def _modernise(settings: Mapping[str, Any], tensor_names: set[str]) -> dict[str, Any]:
    """The legacy form (SAELens before 6) in the words of version 6."""
    old = {_LEGACY_NAMES.get(key, key): value for key, value in settings.items()}
    _refuse_ambiguous(old, tensor_names)
    refuse_changes(old, CFG_FILE)
    architecture = (
        "topk" if old.get("activation_fn") == "topk" else old.get("architecture", "standard")
    )
    new = {key: old[key] for key in ("d_in", "d_sae", "d_out", "dtype", *_KNOBS) if key in old}
    new |= {
        key: value
        for key, value in _object(old, "activation_fn_kwargs").items()
        if key == "k" and value is not None
    }
    normalize = old.get("normalize_activations")
    if normalize is None or isinstance(normalize, bool):
        normalize = "expected_average_only_in" if normalize else "none"
    reshape = old.get("reshape_activations") or (
        "hook_z" if "hook_z" in str(old.get("hook_name", "")) else "none"
    )
    metadata = {key: value for key, value in old.items() if key in _LEGACY_METADATA} | _object(
        old, "metadata"
    )
    return new | {
        "architecture": architecture,
        "apply_b_dec_to_input": old.get("apply_b_dec_to_input", True),
        "normalize_activations": normalize,
        "reshape_activations": reshape,
        "metadata": {"prepend_bos": True} | metadata,
    }


def _refuse_ambiguous(old: Mapping[str, Any], tensor_names: set[str]) -> None:
    activation, kwargs = old.get("activation_fn", "relu"), _object(old, "activation_fn_kwargs")
    if activation not in ("relu", "topk") or kwargs.get("signed"):
        raise ConfigError(
            f"Activation function {activation!r} {dict(kwargs)} is not supported.",
            code="UNSUPPORTED_ARCHITECTURE",
            field="activation_fn",
            got=activation,
            allowed=("relu", "topk"),
        )
    by_tensors = {
        "gated": "b_gate" in tensor_names,
        "jumprelu": bool({"threshold", "log_threshold"} & tensor_names),
    }
    implied = next((name for name, there in by_tensors.items() if there), "")
    if old.get("finetuning_scaling_factor") and "scaling_factor" not in tensor_names:
        there = (f"scaling_factor in {WEIGHTS_FILE}", "missing")
        raise contradiction((f"{CFG_FILE}: finetuning_scaling_factor", True), there)
    silent = "architecture" not in old and "activation_fn" not in old
    if "architecture" not in old and (
        implied or (silent and ("k" in old or "l1_coefficient" not in old))
    ):
        raise ConfigError(
            f"{CFG_FILE} names no architecture and no activation "
            f"function{', yet the weights are ' + implied if implied else ''}: "
            "read as the wrong one, every activation would be wrong.",
            code="AMBIGUOUS_ARCHITECTURE",
            field="architecture",
            allowed=[*ARCHITECTURES],
            hint=f'Add "architecture" to {CFG_FILE} (and "k" for topk).',
        )


def _to_inference(tensors: dict[str, Tensor], scale: float, *, claimed: str, stored: str) -> None:
    """Tensors that only training or an older SAELens wrote, in today's terms."""
    if claimed != stored:
        _tell_of_rounding(tensors, claimed, stored)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    if "topk_threshold" in tensors:
        tensors["threshold"] = torch.ones_like(tensors["b_enc"]) * tensors.pop("topk_threshold")
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise FormatError(
            f"{WEIGHTS_FILE} has a scaling_factor that is not 1 (a finetuned SAE of an "
            "old SAELens).",
            code="UNSUPPORTED_ARCHITECTURE",
            field="scaling_factor",
            got=f"{factor[factor != 1][0].item():.4g}",
            allowed="1",
        )
    if scale:
        tensors["W_enc"].mul_(scale)
        tensors["W_dec"].div_(scale)
        tensors["b_dec"].div_(scale)


DIALECT = Dialect(
    name=NAME,
    matches=folder_with(*FILES),
    wanted=inside(*FILES, RUNNER_FILE),
    recipe=_recipe,
    judges=(CFG_FILE,),
)
