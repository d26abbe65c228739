"""Attention SAEs of Kissane, Krzyzanowski et al. (arXiv:2406.17759) on gpt2-small's hook_z: `X.pt`
and `X_cfg.json`.

Trained on TransformerLens's processed model, whose z has no value bias.
"""

import re
from typing import Any

from saescope.formats.agreement import agree, layer_in
from saescope.formats.dialect import Dialect
from saescope.formats.recipe import Recipe, Stored, metadata, need
from saescope.formats.source import FileSource
from saescope.saes import StandardConfig

NAME = "connor_rob_hook_z"
CONTEXT_SIZE = 128


def _matches(names: set[str]) -> bool:
    return len(names) == 1 and all(name.endswith(".pt") and "_Hcat_z_" in name for name in names)


def _config_file(path: str) -> str:
    return path.removesuffix(".pt") + "_cfg.json"


def _check(path: str, settings: dict[str, Any], hook_name: str) -> None:
    """The layer stands in the hook's name, in the file's, and in older configurations by itself;
    the place is attention's z."""
    match = re.search(r"_L(\d+)_Hcat_z_", path)
    agree(
        ("the layer in act_name", layer_in(hook_name)),
        ("the layer in the file's name", int(match[1]) if match else None),
        ("layer", settings.get("layer")),
    )
    agree(("the file's name: place", "hook_z"), ("act_name", hook_name.rpartition(".")[2]))


def _recipe(source: FileSource) -> Recipe:
    file = _config_file(source.path)
    settings = source.json(file)
    _check(source.path, settings, need(settings, "act_name", str, file))
    cfg = StandardConfig(
        d_in=need(settings, "act_size", int, file),
        d_sae=need(settings, "dict_size", int, file),
        reshape_activations="hook_z",
        metadata=metadata(
            source,
            NAME,
            model_name="gpt2-small",
            hook_name=need(settings, "act_name", str, file),
            prepend_bos=True,
            context_size=CONTEXT_SIZE,
            fold_value_biases=True,
        ),
    )
    return Recipe(
        cfg=cfg,
        file=source.path,
        stored={name: Stored(name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")},
    )


DIALECT = Dialect(
    name=NAME,
    matches=_matches,
    wanted=lambda path: (_config_file(path), path),
    recipe=_recipe,
)
