"""EleutherAI's sparsify on disk: `cfg.json` and `sae.safetensors` in a folder that is called as the
module that it was trained on.

It encodes `x - b_dec`, unless it is a transcoder, which predicts a module's output from its input.
Which it is stands in `cfg.json` (`transcode`) since 12 February 2025 (sparsify f02711e); before, in
the `config.json` of the training run alone, and transcoders encoded `x - b_dec` as well.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor

from saescope.errors import ConfigError
from saescope.formats.agreement import agree, contradiction
from saescope.formats.dialect import Dialect, folder_with
from saescope.formats.hf_sites import hook_of, layer_of, origin
from saescope.formats.recipe import (
    Recipe,
    Stored,
    header_of,
    matrix,
    metadata,
    need,
    place,
    stored_dtype,
    unsupported,
)
from saescope.formats.source import RUN_CONFIGS, FileSource, join
from saescope.formats.weights import TensorInfo
from saescope.saes import GroupMaxConfig, SAEConfig, SAEMetadata, TopKConfig

NAME = "sparsify"
CONFIG, FILE, RUN_CONFIG = "cfg.json", "sae.safetensors", "config.json"
_OF_A_RUN = {"sae", "hookpoints", "transcode", "ctx_len"}


class _Computation(NamedTuple):
    """What the SAE computes, as far as it is no number."""

    activation: str
    transcoder: bool
    centred: bool
    """It encodes x - b_dec."""


def _wanted(path: str) -> tuple[str, ...]:
    return (join(path, CONFIG), join(path, FILE), *_run_configs(path))


def _run_configs(folder: str) -> tuple[str, ...]:
    """Paths at which the training run's configuration may be: beside the SAE, or above it; with
    several seeds each has a folder in the module's."""
    if not folder:
        return (RUN_CONFIG, *RUN_CONFIGS)
    above = folder.rpartition("/")[0]
    places = (folder, above, above.rpartition("/")[0])
    return tuple(dict.fromkeys(join(place, RUN_CONFIG) for place in places))


def _recipe(source: FileSource) -> Recipe:
    config, file = source.at(CONFIG), source.at(FILE)
    settings, run, header = source.json(config), _run(source), header_of(source, file)
    kind = _kind(settings, run, header)
    d_sae, d_in = matrix(file, header, "encoder.weight")
    expected = settings.get("num_latents") or need(settings, "d_in", int, config) * need(
        settings, "expansion_factor", int, config
    )
    if (d_in, d_sae) != (settings.get("d_in"), expected):
        raise ConfigError(
            f"{CONFIG} says d_in={settings.get('d_in')} and {expected} latents, the "
            f"weights are {d_in} by {d_sae}.",
            code="SHAPE_MISMATCH",
        )
    decoder = header.get("W_dec", header.get("decoder.weight", TensorInfo((), ""))).shape
    cfg = {"topk": TopKConfig, "groupmax": GroupMaxConfig}[kind.activation](
        d_in=d_in,
        d_sae=d_sae,
        d_out=(decoder[1] if "W_dec" in header else decoder[0])
        if kind.transcoder and len(decoder) == 2
        else d_in,
        k=need(settings, "k", int, config),
        dtype=stored_dtype(header, "encoder.weight"),
        apply_b_dec_to_input=not kind.transcoder,
        transcoder=kind.transcoder,
        skip=bool(settings.get("skip_connection", False)),
        metadata=_metadata(source, run, kind.transcoder),
    )
    fix = _centre if kind.transcoder and kind.centred else lambda _: None
    return Recipe(cfg=cfg, file=file, stored=_stored(header, cfg), fix=fix)


def _centre(tensors: dict[str, Tensor]) -> None:
    # (x - b_dec) @ W_enc + b_enc = x @ W_enc + (b_enc - b_dec @ W_enc)
    shift = tensors["b_dec"].float() @ tensors["W_enc"].float()
    tensors["b_enc"] = (tensors["b_enc"].float() - shift).to(tensors["b_enc"].dtype)


def _run(source: FileSource) -> dict[str, Any]:
    """The training run's configuration; empty where it is not there, or where that file is another
    program's."""
    there = (source.json(name) for name in _run_configs(source.folder) if source.exists(name))
    return next((run for run in there if _OF_A_RUN & run.keys()), {})


def _kind(
    settings: Mapping[str, Any], run: Mapping[str, Any], header: Mapping[str, TensorInfo]
) -> _Computation:
    sae: dict[str, Any] = run["sae"] if isinstance(run.get("sae"), dict) else {}
    _agree_with_run(settings, run, sae)
    of_today = {"transcode"} & (settings.keys() | sae.keys())
    transcoder = {**run, **sae, **settings}.get("transcode", False)
    if not isinstance(transcoder, bool):
        raise unsupported("transcode", file=CONFIG, got=transcoder, allowed=["true", "false"])
    _check(settings, header)
    if "skip_connection" in settings and "transcode" not in settings and not run:
        raise _ambiguous()
    if settings.get("skip_connection") and not transcoder:
        raise unsupported(
            "skip_connection", file=CONFIG, got=True, allowed=["only together with transcode"]
        )
    activation = str(settings.get("activation") or "topk")
    if activation not in ("topk", "groupmax"):
        raise unsupported("activation", file=CONFIG, got=activation, allowed=["topk", "groupmax"])
    return _Computation(activation, transcoder, centred=not (transcoder and of_today))


def _agree_with_run(
    settings: Mapping[str, Any], run: Mapping[str, Any], sae: Mapping[str, Any]
) -> None:
    """The run keeps the SAE's own configuration; 0 latents are those of the expansion_factor."""
    for name in (*sae, "transcode"):
        claims = [
            (f"{CONFIG}: {name}", settings.get(name)),
            (f"the run's {RUN_CONFIG}: sae.{name}", sae.get(name)),
        ]
        if name == "transcode":
            claims.append((f"the run's {RUN_CONFIG}: {name}", run.get(name)))
        counted = [(place, value or None) for place, value in claims]
        agree(*(counted if name == "num_latents" else claims))


def _stored(header: Mapping[str, TensorInfo], cfg: SAEConfig) -> dict[str, Stored]:
    stored = {
        "W_enc": Stored("encoder.weight", turned=True),
        "b_enc": Stored("encoder.bias"),
        "b_dec": Stored("b_dec"),
    }
    # W_dec is [d_sae, d_in] already; sae-lens turns it once more.
    stored["W_dec"] = (
        Stored("decoder.weight", turned=True) if "decoder.weight" in header else Stored("W_dec")
    )
    return stored | ({"W_skip": Stored("W_skip")} if cfg.skip else {})


def _check(settings: Mapping[str, Any], header: Mapping[str, TensorInfo]) -> None:
    if settings.get("signed"):
        raise unsupported("signed", file=CONFIG, got=True, allowed=["false"])
    skip = bool(settings.get("skip_connection"))
    if skip != ("W_skip" in header):
        raise contradiction(
            (f"{CONFIG}: skip_connection", skip), (f"W_skip in {FILE}", "W_skip" in header)
        )


def _ambiguous() -> ConfigError:
    return ConfigError(
        f"Neither {CONFIG} nor a run's {RUN_CONFIG} in the folder above says whether "
        "this is an SAE or a transcoder (transcode).",
        code="AMBIGUOUS_ARCHITECTURE",
        field="transcode",
        hint=f"Put the {RUN_CONFIG} of its training run, which is in the same repository, "
        "into the folder above.",
    )


def _metadata(source: FileSource, run: Mapping[str, Any], transcode: bool) -> SAEMetadata:
    model_name = str(run.get("model") or source.known.get("model_name") or "")
    module = _module(source, run)
    context_size = run.get("ctx_len")
    return metadata(
        source,
        NAME,
        model_name=model_name,
        hook_name=hook_of(module, "input" if transcode else "output", model_name),
        hook_name_out=hook_of(module, "output", model_name) if transcode else "",
        hookpoint=module,
        **origin(module, "input" if transcode else "output", writes=module if transcode else ""),
        context_size=context_size if type(context_size) is int else None,
        dataset_path=str(run.get("dataset") or ""),
    )


def _module(source: FileSource, run: Mapping[str, Any]) -> str:
    """The module as the folder is called; in a folder of another name, the one that the run trained
    on."""
    folders = place(source, source.at(CONFIG)).removesuffix(f"/{CONFIG}").split("/")
    name = folders[-2] if folders[-1].startswith("seed") and len(folders) > 1 else folders[-1]
    layers, layer = run.get("layers"), layer_of(name)
    if isinstance(layers, list) and layers and layer is not None and layer not in layers:
        raise contradiction(
            ("the folder's name", name), (f"the run's {RUN_CONFIG}: layers", layers)
        )
    hookpoints = run.get("hookpoints")
    trained = [str(module) for module in hookpoints] if isinstance(hookpoints, list) else []
    if not trained or any(_is_called(module, name) for module in trained):
        return name
    if hook_of(name, "output"):
        raise contradiction(
            ("the folder's name", name), (f"the run's {RUN_CONFIG}: hookpoints", trained)
        )
    return trained[0] if len(trained) == 1 else name


def _is_called(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}") or fnmatchcase(name, module)


DIALECT = Dialect(
    name=NAME,
    matches=folder_with(CONFIG, FILE),
    wanted=_wanted,
    recipe=_recipe,
)
