"""Which SAEs are trained in one pass of the model: one for each layer, several at one site; their
names, and what they have to have in common."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import product
from typing import Any

from saescope.errors import ArgumentError, ConfigError
from saescope.layers import ANY, parse_layers, written
from saescope.models import LanguageModel
from saescope.names import split_hook
from saescope.training.config import TrainConfig
from saescope.training.data import hooks_of
from saescope.training.run import train_config

SWEPT = ("k", "d_sae", "seed")
"""What several SAEs at one site may differ in when a call asks for them."""
MOST_SAES = 1024
_COMMON = (
    *("model", "dataset", "text_column", "context_size", "prepend_bos", "join_documents"),
    *("document_separator", "training_tokens", "batch_size", "buffer_tokens"),
    *("checkpoint_every_s", "keep_checkpoints", "logger", "name"),
)
_OF_THE_SITE = {"hook_name", "hook_name_out", "d_in", "d_out", "data_seed", "name"}
_SHORT = {"d_sae": "d", "architecture": "", "training_tokens": "tokens"}


def train_configs(
    model: LanguageModel,
    hook_name: str,
    *,
    layers: str = "",
    sweep: Mapping[str, Sequence[Any]] | None = None,
    **settings: Any,
) -> list[TrainConfig]:
    """The configurations of a set: one for each of `layers` ("all", "0-11", "3,7"), which takes the
    place of {layer} in the hook names, and at each site one for every combination of what `sweep`
    lists, such as {"k": [16, 32], "seed": [0, 1]}.

    All read the same text in the same order (`data_seed`), whatever their seeds.

    Raises:
        ArgumentError: no such layers, or they do not go with the hook name.
        HookError: the model has no such site.
        ConfigError: a setting is out of range, or does not go with another.
    """
    swept = {name: list(values) for name, values in (sweep or {}).items() if values}
    first_seed = swept.get("seed", [settings.get("seed", 0)])[0]
    settings.setdefault("data_seed", first_seed)
    configs = [
        train_config(model, **sites, **settings | dict(zip(swept, values, strict=True)))
        for sites in sites_of(hook_name, settings.pop("hook_name_out", ""), layers, model.n_layers)
        for values in product(*swept.values())
    ]
    return check_set(configs)


def sites_of(
    hook_name: str, hook_name_out: str, layers: str, n_layers: int
) -> list[dict[str, str]]:
    """The hook names of each site of a set, in the order of layers.

    Raises:
        ArgumentError: {layer} without layers, layers without {layer}, or no such layers.
    """
    given = {"hook_name": hook_name} | ({"hook_name_out": hook_name_out} if hook_name_out else {})
    check_pattern(given, layers)
    if not layers:
        return [given]
    return [
        {field: name.replace(ANY, str(layer)) for field, name in given.items()}
        for layer in layers_of(layers, n_layers)
    ]


def layers_of(layers: str, n_layers: int) -> list[int]:
    """`("0-2,7", 12) -> [0, 1, 2, 7]`; "all" are those of the model.

    Raises:
        ArgumentError: INVALID_LAYERS: no layers, or some that the model does not have.
    """
    chosen = parse_layers(layers)
    if beyond := sorted(layer for layer in chosen or () if layer >= n_layers):
        raise ArgumentError(
            f"The model has no layer {beyond[0]}: it has {n_layers}.",
            code="INVALID_LAYERS",
            field="layers",
            got=layers,
            allowed=f'"all", or layers of 0..{n_layers - 1}',
            hint=f'Take layers="all" or layers="{written([*range(n_layers)])}".',
        )
    return sorted(range(n_layers) if chosen is None else chosen)


def check_pattern(names: Mapping[str, str], layers: str) -> None:
    """Raises ArgumentError where {layer} and `layers` are not there together."""
    for field, name in names.items():
        if name and bool(layers) != (ANY in name):
            raise ArgumentError(
                f"{field}={name!r} and layers={layers!r} do not go together.",
                code="CONFLICTING_ARGUMENTS",
                field=field,
                got=name,
                allowed='a {layer} in each hook name with layers="all", "0-11" or "3,7"; neither '
                "for one site",
                hint="Name the sites as blocks.{layer}.hook_resid_post.",
            )


def read_sweep(options: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Options apart from those that list what several SAEs differ in ("k=16,32"), and these.

    Raises:
        ArgumentError: a value is no number, or listed twice.
    """
    rest, sweep = list[str](), dict[str, list[Any]]()
    for option in options:
        name, _, text = (part.strip() for part in option.partition("="))
        if name not in SWEPT:
            rest.append(option)
            continue
        try:
            values = [float(part) if name == "k" else int(part) for part in text.split(",")]
        except ValueError:
            values = []
        if not values or len(set(values)) < len(values) or name in sweep:
            raise ArgumentError(
                f"Option {option!r} must list different numbers.",
                field="options",
                got=option,
                allowed=f'"{name}=16,32": an SAE for each',
            )
        sweep[name] = values
    return rest, sweep


def check_set(configs: Sequence[TrainConfig]) -> list[TrainConfig]:
    """The configurations, if they can be trained in one pass; with the seed of the first one's text
    in all.

    Raises:
        ConfigError: they differ in what all share, or two are the same.
    """
    if not 1 <= len(configs) <= MOST_SAES:
        raise ConfigError(
            f"A set has 1 to {MOST_SAES} SAEs, got {len(configs)}.",
            field="configs",
            got=len(configs),
        )
    first = configs[0]
    for name in _COMMON:
        values = list(dict.fromkeys(getattr(cfg, name) for cfg in configs))
        if len(values) > 1:
            raise ConfigError(
                f"SAEs that are trained in one pass have one {name}, got {values}.",
                code="CONFLICTING_ARGUMENTS",
                field=name,
                got=values,
                hint=f"Train those of each {name} in a set of their own.",
            )
    if first.cache_activations or any(cfg.cache_activations for cfg in configs):
        raise ConfigError(
            "A set keeps no activations on disk: it reads the text once for all of its SAEs.",
            code="CONFLICTING_ARGUMENTS",
            field="cache_activations",
            got=True,
            allowed=False,
        )
    same = [replace(cfg, data_seed=first.chosen.data_seed) for cfg in configs]
    if len(set(same)) < len(same):
        raise ConfigError("Two SAEs of the set have the same configuration.", field="configs")
    return same


def names_of(configs: Sequence[TrainConfig]) -> dict[str, TrainConfig]:
    """The configurations by the names of their SAEs, which are folders: `layer_3`, of several at a
    site `k32`, of both `k32/layer_3`, so that each folder of layers is a set of one kind."""
    everything = [asdict(cfg) for cfg in configs]
    varying = [
        field.name
        for field in fields(TrainConfig)
        if field.name not in _OF_THE_SITE
        and len({repr(settings[field.name]) for settings in everything}) > 1
    ]
    sites = {hooks_of(cfg) for cfg in configs}
    named = defaultdict[str, list[TrainConfig]](list)
    for cfg in configs:
        tag = "_".join(_tag(name, getattr(cfg, name)) for name in varying)
        place = _place(cfg) if len(sites) > 1 or not tag else ""
        named["/".join(part for part in (tag, place) if part)].append(cfg)
    return {
        name if len(those) == 1 else f"{name}.{'-to-'.join(_sites(cfg))}": cfg
        for name, those in named.items()
        for cfg in those
    }


def _place(cfg: TrainConfig) -> str:
    layer, _ = split_hook(cfg.hook_name)
    return cfg.hook_name if layer is None else f"layer_{layer}"


def _sites(cfg: TrainConfig) -> list[str]:
    return [split_hook(name)[1] for name in hooks_of(cfg)]


def _tag(name: str, value: Any) -> str:
    said = f"{value:g}" if isinstance(value, float) else str(value)
    plain = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in said)
    return f"{_SHORT.get(name, name)}{plain}"
