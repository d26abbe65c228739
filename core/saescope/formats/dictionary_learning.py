"""saprmarks/dictionary_learning on disk: `config.json` and `ae.pt`, a state dict of one of its
dictionary classes."""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from saescope.errors import ConfigError
from saescope.formats.agreement import agree, contradiction
from saescope.formats.dialect import Dialect, folder_with, inside
from saescope.formats.hf_sites import hook_of, layer_of, origin
from saescope.formats.pickles import open_pickle
from saescope.formats.recipe import Recipe, Stored, metadata, need, place, unsupported
from saescope.formats.source import FileSource
from saescope.formats.weights import TensorInfo
from saescope.saes import ARCHITECTURES, SAEConfig

NAME = "dictionary_learning_1"
CONFIG, FILE = "config.json", "ae.pt"


class _Class(NamedTuple):
    """One of its dictionary classes, in our terms."""

    architecture: str
    b_dec: tuple[str, ...] = ("b_dec",)
    """What its output bias is called."""
    centred: bool = True
    """It encodes x - b_dec."""
    biases: tuple[tuple[str, tuple[str, ...]], ...] = (("b_enc", ("encoder.bias", "b_enc")),)
    ignored: tuple[str, ...] = ()


_THRESHOLD = (("b_enc", ("encoder.bias", "b_enc")), ("threshold", ("threshold",)))
_GATED = (("b_gate", ("gate_bias",)), ("b_mag", ("mag_bias",)), ("r_mag", ("r_mag",)))
CLASSES = {
    "AutoEncoder": _Class("standard", ("bias", "b_dec")),
    "AutoEncoderNew": _Class("standard", ("decoder.bias",), centred=False),
    "GatedAutoEncoder": _Class("gated", ("decoder_bias",), biases=_GATED),
    # Its own encode takes the exact top k; the threshold that it also saves is for another mode.
    "AutoEncoderTopK": _Class("topk", ignored=("threshold",)),
    "BatchTopKSAE": _Class("batchtopk", biases=_THRESHOLD),
    "MatryoshkaBatchTopKSAE": _Class("matryoshka_batchtopk", biases=_THRESHOLD),
    "JumpReluAutoEncoder": _Class("jumprelu", centred=False, biases=_THRESHOLD),
}


_TRAINED_BY = {
    "TopKTrainer": "topk",
    "BatchTopKTrainer": "batchtopk",
    "MatryoshkaBatchTopKTrainer": "matryoshka_batchtopk",
    "GatedSAETrainer": "gated",
    "GatedAnnealTrainer": "gated",
    "JumpReluTrainer": "jumprelu",
    "StandardTrainer": "standard",
    "StandardTrainerAprilUpdate": "standard",
    "PAnnealTrainer": "standard",
}
_SUBMODULE = re.compile(r"(resid_post|resid_pre|mlp_out|attn_out)(?:put)?_?layer_?(\d+)")


def _of_config(source: FileSource) -> Recipe:
    """The pickle is not opened."""
    return Recipe(cfg=_config(source)[0], file=source.at(FILE), stored={})


def _recipe(source: FileSource) -> Recipe:
    cfg, kind = _config(source)
    file = source.at(FILE)
    with open_pickle(source, file) as weights:
        header, values = weights.header, weights.values
    if "topk" in cfg.architecture:
        k = source.json(source.at(CONFIG))["trainer"]["k"]
        agree((f"{CONFIG}: trainer.k", k), (f"k in {FILE}", values.get("k")))
    linear = "W_enc" not in header
    stored = {
        "W_enc": Stored("encoder.weight", turned=True),
        "W_dec": Stored("decoder.weight", turned=True),
    }
    stored = stored if linear else {"W_enc": Stored("W_enc"), "W_dec": Stored("W_dec")}
    for name, spellings in (("b_dec", kind.b_dec), *kind.biases):
        stored[name] = Stored(
            next((spelling for spelling in spellings if spelling in header), spellings[0])
        )
    if "threshold" in stored and not header.get("threshold", TensorInfo((1,), "")).shape:
        stored["threshold"] = Stored("threshold", shape=())
    return Recipe(
        cfg=cfg,
        file=file,
        stored=stored,
        ignored=kind.ignored,
        fix=lambda tensors: _spread(tensors, cfg),
    )


def _spread(tensors: dict[str, Tensor], cfg: SAEConfig) -> None:
    if "threshold" in tensors and not tensors["threshold"].ndim:
        tensors["threshold"] = tensors["threshold"].repeat(cfg.d_sae)


def _config(source: FileSource) -> tuple[SAEConfig, _Class]:
    file = source.at(CONFIG)
    settings = source.json(file)
    name = need(settings, "trainer.dict_class", str, file)
    if name not in CLASSES:
        raise unsupported("dict_class", file=file, got=name, allowed=[*CLASSES])
    kind, trainer, own = CLASSES[name], settings["trainer"], dict[str, Any]()
    for key in sorted(settings.keys() & trainer.keys()):
        agree((f"{CONFIG}: {key}", settings[key]), (f"{CONFIG}: trainer.{key}", trainer[key]))
    _check(source, trainer, kind)
    architecture = kind.architecture
    if "topk" in architecture:
        own["k"] = need(settings, "trainer.k", int, file)
    if architecture == "matryoshka_batchtopk":
        widths = _widths(trainer, file)
        own |= {"matryoshka_widths": widths} if widths else {}
        architecture = (
            architecture if widths else "batchtopk"
        )  # the groups do not change its numbers
    if "batchtopk" in architecture:
        own["k"] = float(own["k"])
    cfg = ARCHITECTURES[architecture][0](
        architecture=architecture,
        d_in=_d_in(settings, file),
        d_sae=need(settings, "trainer.dict_size", int, file),
        apply_b_dec_to_input=kind.centred,
        metadata=_metadata(source, settings, name),
        **own,
    )
    return cfg, kind


def _d_in(settings: Mapping[str, Any], file: str) -> int:
    d_in = need(settings, "trainer.activation_dim", int, file)
    buffer = settings.get("buffer")
    width = buffer.get("d_submodule") if isinstance(buffer, dict) else None
    agree((f"{CONFIG}: trainer.activation_dim", d_in), (f"{CONFIG}: buffer.d_submodule", width))
    return d_in


def _check(source: FileSource, trainer: Mapping[str, Any], kind: _Class) -> None:
    """What the configuration says twice, and what the folder's name says of it."""
    trained_as = _TRAINED_BY.get(str(trainer.get("trainer_class")), kind.architecture)
    if trained_as != kind.architecture:
        raise contradiction(
            (f"{CONFIG}: trainer.dict_class", trainer["dict_class"]),
            (f"{CONFIG}: trainer.trainer_class", trainer["trainer_class"]),
        )
    named = str(trainer.get("submodule_name") or "")
    match = _SUBMODULE.search(named)
    layer = int(match[2]) if match else layer_of(named)
    if type(trainer.get("layer")) is int:
        agree(
            (f"the layer in {CONFIG}: trainer.submodule_name", layer),
            (f"{CONFIG}: trainer.layer", trainer["layer"]),
        )
    folders = [
        folder_match
        for part in place(source, source.at(CONFIG)).split("/")[-3:]
        if (folder_match := _SUBMODULE.search(part))
    ]
    if match and folders:
        agree(
            ("the folder's name", (folders[-1][1], int(folders[-1][2]))),
            (f"{CONFIG}: trainer.submodule_name", (match[1], int(match[2]))),
        )


def _widths(trainer: Mapping[str, Any], file: str) -> tuple[int, ...]:
    """Ends of the nested groups; none in the configurations of older versions."""
    sizes = trainer.get("group_sizes")
    if sizes is None:
        return ()
    if (
        not isinstance(sizes, list)
        or not sizes
        or not all(type(size) is int and size > 0 for size in sizes)
    ):
        raise ConfigError(
            f"{file}: trainer.group_sizes must be a list of positive integers, got {sizes!r}.",
            field="group_sizes",
        )
    return tuple(accumulate(sizes))


def _metadata(source: FileSource, settings: Mapping[str, Any], dict_class: str) -> Any:
    trainer, buffer = settings["trainer"], settings.get("buffer")
    buffer = buffer if isinstance(buffer, dict) else {}
    model_name = str(trainer.get("lm_name") or "")
    module = _module(source, trainer, str(buffer.get("io") or "out"))
    context_size = buffer.get("ctx_len")
    return metadata(
        source,
        NAME,
        model_name=model_name,
        hook_name=hook_of(*module, model_name),
        **origin(*module),
        context_size=context_size if type(context_size) is int else None,
        dict_class=dict_class,
        submodule_name=str(trainer.get("submodule_name") or ""),
    )


def _module(source: FileSource, trainer: Mapping[str, Any], io: str) -> tuple[str, str]:
    """Module and side, from `submodule_name` ("resid_post_layer_12"), else from the folder of that
    name; empty if neither says it."""
    layer = trainer.get("layer")
    names = (str(trainer.get("submodule_name") or ""), *reversed(source.path.split("/")))
    match = next((match for name in names if (match := _SUBMODULE.search(name))), None)
    side = "input" if io == "in" else "output"
    if match:
        modules = {
            "resid_post": "layers.{}",
            "mlp_out": "layers.{}.mlp",
            "attn_out": "layers.{}.attn",
        }
        if match[1] == "resid_pre":
            return f"layers.{match[2]}", "input"
        return modules[match[1]].format(match[2]), side
    if type(layer) is int and not names[0]:
        # Without a submodule_name the library's own training scripts record the residual stream.
        return f"layers.{layer}", side
    return names[0], side


DIALECT = Dialect(
    name=NAME,
    matches=folder_with(CONFIG, FILE),
    wanted=inside(CONFIG, FILE),
    recipe=_recipe,
    preview=_of_config,
)
