"""circuit-tracer's transcoder sets on disk: `layer_{N}.safetensors`, and for all of them one
`config.yaml`.

mwhanna's Qwen3 transcoders are such sets; some of them have `wandb-config.yaml` only.
"""

import re
from dataclasses import replace
from typing import Any

from saescope.errors import ConfigError, FormatError
from saescope.formats.agreement import agree
from saescope.formats.dialect import Dialect, never
from saescope.formats.hf_sites import is_written_as_is
from saescope.formats.recipe import (
    Recipe,
    Stored,
    header_of,
    matrix,
    metadata,
    need,
    open_file,
    place,
    stored_dtype,
    unsupported,
)
from saescope.formats.source import FileSource, join
from saescope.formats.weights import TensorInfo
from saescope.saes import JumpReLUConfig, SAEMetadata, StandardConfig, TopKConfig

NAME = "circuit_tracer"
CONFIG = "config.yaml"
WANDB_CONFIGS = ("wandb-config.yaml", "wanb-config.yaml")
_FILE = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"
_READS, _WRITES = "mlp.hook_in", "hook_mlp_out"
_HOOKS = ("hook_resid_mid", "mlp.hook_in", "ln2.hook_normalized", "hook_mlp_out", "mlp.hook_out")


def _matches(names: set[str]) -> bool:
    if len(names) == 1:
        return bool(_FILE.fullmatch(next(iter(names)))) or names == {CONFIG}
    return CONFIG in names and any(_FILE.fullmatch(name) for name in names)


def _wanted(path: str) -> tuple[str, ...]:
    folder = path.rpartition("/")[0] if path.endswith(".safetensors") else path
    return (path, *(join(folder, name) for name in (CONFIG, *WANDB_CONFIGS)))


def _recipe(source: FileSource) -> Recipe:
    layer, settings = _FILE.search(source.path), _settings(source)
    if not layer:
        raise _no_layer(source, settings)
    header = header_of(source, source.path)
    d_sae, d_in = matrix(source.path, header, "W_enc")
    _check_widths(source, d_in, d_sae)
    # k and the activation count in this order: config.yaml, then what the file itself holds.
    activation = settings.get("activation") or (
        "topk" if "k" in header else "jump_relu" if _THRESHOLD in header else "relu"
    )
    if activation not in ("relu", "topk", "jump_relu", "jumprelu"):
        raise unsupported(
            "activation", file=CONFIG, got=activation, allowed=["relu", "topk", "jump_relu"]
        )
    shared: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": matrix(source.path, header, "W_dec")[1],
        "dtype": stored_dtype(header, "W_enc"),
        "apply_b_dec_to_input": False,
        "transcoder": True,
        "skip": "W_skip" in header,
        "metadata": _metadata(source, settings, layer[1]),
    }
    stored = {"W_enc": Stored("W_enc", turned=True)} | {
        name: Stored(name) for name in ("W_dec", "b_enc", "b_dec")
    }
    stored |= {"W_skip": Stored("W_skip")} if "W_skip" in header else {}
    if activation == "topk":
        return Recipe(
            cfg=TopKConfig(k=_k(source, settings, header), **shared),
            file=source.path,
            stored=stored,
            ignored=["k"],
        )
    if activation == "relu":
        return Recipe(cfg=StandardConfig(**shared), file=source.path, stored=stored)
    return Recipe(
        cfg=JumpReLUConfig(**shared),
        file=source.path,
        stored=stored | {"threshold": Stored(_THRESHOLD)},
    )


def _k(source: FileSource, settings: dict[str, Any], header: dict[str, TensorInfo]) -> int:
    if "k" not in header:
        return need(settings, "k", int, CONFIG)
    with open_file(source, source.path) as weights:
        k = weights.whole_number("k")
    agree((f"{CONFIG}: k", settings.get("k")), (f"k in {source.path.rpartition('/')[2]}", k))
    return k


def _check_widths(source: FileSource, d_in: int, d_sae: int) -> None:
    """What wandb kept of the training run, against the weights."""
    for name in (name for name in WANDB_CONFIGS if source.exists(source.at(name))):
        run = source.yaml(source.at(name))
        for key, width in (("d_model", d_in), ("d_feature", d_sae)):
            entry = run.get(key)
            value = entry.get("value") if isinstance(entry, dict) else None
            agree((f"{name}: {key}", value), ("the shape of W_enc", width), code="SHAPE_MISMATCH")


def _metadata(source: FileSource, settings: dict[str, Any], layer: str) -> SAEMetadata:
    size = re.search(r"qwen3-(\d+(?:\.\d+)?)b", place(source, source.path))
    hooks = [
        str(settings.get(key) or usual)
        for key, usual in (("feature_input_hook", _READS), ("feature_output_hook", _WRITES))
    ]
    for hook in hooks:
        if hook not in _HOOKS:
            raise ConfigError(
                f"{CONFIG}: the hook {hook!r} is not one that a transcoder can have.",
                field="hook",
                got=hook,
                allowed=_HOOKS,
            )
    model_name = str(settings.get("model_name") or (f"Qwen/Qwen3-{size[1]}B" if size else ""))
    module = {"hf_module_out": f"layers.{layer}.mlp"} if hooks[1] == "mlp.hook_out" else {}
    if module and is_written_as_is(model_name):
        hooks[1] = _WRITES  # the same tensor, by its usual name
    return metadata(
        source,
        NAME,
        model_name=model_name,
        hook_name=f"blocks.{layer}.{hooks[0]}",
        hook_name_out=f"blocks.{layer}.{hooks[1]}",
        context_size=settings.get("context_size"),
        **module,
    )


def _settings(source: FileSource) -> dict[str, Any]:
    """config.yaml; what wandb kept of the training run fills in."""
    name = source.at(CONFIG)
    settings = source.yaml(name) if source.exists(name) else {}
    kind = settings.get("model_kind", "transcoder_set")
    if kind != "transcoder_set":
        raise unsupported("model_kind", file=CONFIG, got=kind, allowed=["transcoder_set"])
    for name in map(source.at, WANDB_CONFIGS):
        if source.exists(name):
            size = source.yaml(name).get("batch_size")
            value = size.get("value") if isinstance(size, dict) else None
            return settings | ({"context_size": value} if type(value) is int else {})
    if not settings:
        raise ConfigError(
            f"There is no {CONFIG} next to {source.path}: it says which hooks the "
            "transcoder reads and writes.",
            field=CONFIG,
            hint=f'Put a {CONFIG} there with "feature_input_hook" and "feature_output_hook".',
        )
    return settings


def _no_layer(source: FileSource, settings: dict[str, Any]) -> FormatError:
    references = settings.get("transcoders")
    if references:
        return FormatError(
            f"{CONFIG} only lists transcoders of other repositories: {str(references)[:200]}.",
            code="TRANSCODER_SET_REFERENCES",
            hint='Load one of those: ss.load_sae(release="<owner/repository>", sae_id="<its '
            'path there>").',
        )
    layers = sorted(name for name in source.names if _FILE.fullmatch(name.rpartition("/")[2]))
    return FormatError(
        "This is a set of transcoders, one a layer.",
        code="AMBIGUOUS_SAE",
        allowed=layers[:10],
        hint="Name one: .../layer_5.safetensors.",
    )


SETS = Dialect(
    name=NAME,
    matches=_matches,
    wanted=_wanted,
    recipe=_recipe,
)
MWHANNA = replace(SETS, name="mwhanna_transcoder", matches=never)
"""These files, under the name that the catalogue has for them."""
