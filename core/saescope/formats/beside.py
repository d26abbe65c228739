"""A config.json beside a weights file that needs none: the format does not ask for it, but where it
is there it must agree."""

import re
from typing import Any

from saescope.formats.agreement import agree, layer_in
from saescope.formats.source import Source, join
from saescope.saes import SAEConfig

FILES = ("config.json", "cfg.json")
_WORDS = {
    "d_in": ("d_in", "d_model", "activation_dim", "act_size"),
    "d_sae": ("d_sae", "dict_size", "n_latents", "num_latents", "d_hidden"),
    "layer": ("layer", "hook_layer"),
    "k": ("k", "top_k", "topk"),
    "hook": ("hook_name", "hook_point"),
    "architecture": ("architecture", "activation", "activation_fn", "activation_fn_str", "act_fn"),
}
_ARCHITECTURES = {"relu": "standard"}
_SCALES = {"k": (1000, 1024), "m": (1_000_000, 1 << 20)}
_SMALLEST = 1000
"""No published width has less; a folder that is called as a published one may hold a smaller
copy."""


def neighbours(path: str) -> tuple[str, ...]:
    """Where such a configuration would be, of a file at `path`."""
    return tuple(join(path.rpartition("/")[0], name) for name in FILES)


def with_neighbours(path: str) -> tuple[str, ...]:
    """What a load of such a file reads."""
    return (path, *neighbours(path))


def check_beside(source: Source, cfg: SAEConfig) -> None:
    """Raise unless what stands beside the weights is what the SAE is read as.

    Raises:
        ConfigError: a field says something else; both places are named.
    """
    hook_name = cfg.metadata.hook_name
    named = bool(source.known.get("hook_name"))  # the user's word wins over the files
    ours: dict[str, object] = {
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "layer": None if named else layer_in(hook_name),
        "k": getattr(cfg, "k", None),
        "hook": None if named else hook_name,
        "architecture": cfg.architecture,
    }
    for file in (file for file in map(source.at, FILES) if source.exists(file)):
        said = source.json(file)
        for what, words in _WORDS.items():
            for word in words:
                place = f"{file.rpartition('/')[2]}: {word}"
                agree((f"what was read as {what}", ours[what]), (place, _plain(what, said, word)))


def _plain(what: str, said: dict[str, Any], word: str) -> object:
    value = said.get(word)
    if what == "architecture" and isinstance(value, str):
        name = re.sub(r"[^a-z]", "", value.lower())
        return _ARCHITECTURES.get(name, name)
    return value if isinstance(value, str if what == "hook" else int) else None


def check_width(name: str, d_sae: int) -> None:
    """A width in a folder's name ("16k", "1m") against the weights."""
    found = re.fullmatch(r"(\d+)([km])", name.lower())
    if not found or d_sae < _SMALLEST:
        return
    claimed = int(found[1])
    if not any(d_sae // scale == claimed for scale in _SCALES[found[2]]):
        agree(
            ("the width in the folder's name", name),
            ("the width of the weights", d_sae),
            code="SHAPE_MISMATCH",
        )
