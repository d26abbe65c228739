"""saprmarks/dictionary_learning on disk: `config.json` and `ae.pt`, a state dict of one of its dictionary classes."""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saescope.errors import ConfigError
from saescope.formats.hf_sites import hook_of
from saescope.formats.recipe import Recipe, Stored, header_of, metadata, need, unsupported
from saescope.formats.source import Source, join
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


def matches(names: set[str]) -> bool:
    return {CONFIG, FILE} <= names


def wanted(path: str) -> tuple[str, ...]:
    return (join(path, CONFIG), join(path, FILE))


def peek(source: Source) -> tuple[SAEConfig, dict[str, TensorInfo]]:
    """Configuration, and the tensors that follow from it: the .pt file is not opened."""
    recipe = Recipe(cfg=_config(source)[0], file=source.at(FILE), stored={})
    return recipe.cfg, recipe.infos()


def read(source: Source, dtype: torch.dtype) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Configuration and weights."""
    cfg, kind = _config(source)
    file = source.at(FILE)
    header = header_of(source, file)
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
    ).read(source, dtype)


def _spread(tensors: dict[str, Tensor], cfg: SAEConfig) -> None:
    if "threshold" in tensors and not tensors["threshold"].ndim:
        tensors["threshold"] = tensors["threshold"].repeat(cfg.d_sae)


def _config(source: Source) -> tuple[SAEConfig, _Class]:
    file = source.at(CONFIG)
    said = source.json(file)
    name = need(said, "trainer.dict_class", str, file)
    if name not in CLASSES:
        raise unsupported("dict_class", file=file, got=name, allowed=[*CLASSES])
    kind, trainer, own = CLASSES[name], said["trainer"], dict[str, Any]()
    architecture = kind.architecture
    if "topk" in architecture:
        own["k"] = need(said, "trainer.k", int, file)
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
        d_in=need(said, "trainer.activation_dim", int, file),
        d_sae=need(said, "trainer.dict_size", int, file),
        apply_b_dec_to_input=kind.centred,
        metadata=_metadata(source, said, name),
        **own,
    )
    return cfg, kind


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


def _metadata(source: Source, said: Mapping[str, Any], dict_class: str) -> Any:
    trainer, buffer = said["trainer"], said.get("buffer")
    buffer = buffer if isinstance(buffer, dict) else {}
    model_name = str(trainer.get("lm_name") or "")
    context_size = buffer.get("ctx_len")
    return metadata(
        source,
        NAME,
        model_name=model_name,
        hook_name=_hook(source, trainer, str(buffer.get("io") or "out"), model_name),
        context_size=context_size if type(context_size) is int else None,
        dict_class=dict_class,
        submodule_name=str(trainer.get("submodule_name") or ""),
    )


def _hook(source: Source, trainer: Mapping[str, Any], io: str, model_name: str) -> str:
    """From `submodule_name` ("resid_post_layer_12"), else from the folder of that name; empty if neither says it."""
    layer = trainer.get("layer")
    names = (str(trainer.get("submodule_name") or ""), *reversed(source.path.split("/")))
    pattern = re.compile(r"(resid_post|resid_pre|mlp_out|attn_out)(?:put)?_?layer_?(\d+)")
    found = next((match for name in names if (match := pattern.search(name))), None)
    side = "input" if io == "in" else "output"
    if found:
        modules = {
            "resid_post": "layers.{}",
            "mlp_out": "layers.{}.mlp",
            "attn_out": "layers.{}.attn",
        }
        if found[1] == "resid_pre":
            return f"blocks.{found[2]}.hook_resid_pre"
        return hook_of(modules[found[1]].format(found[2]), side, model_name)
    if type(layer) is int and not names[0]:
        # Without a submodule_name the library's own training scripts record the residual stream.
        return hook_of(f"layers.{layer}", side, model_name)
    return hook_of(names[0], side, model_name)
