"""Qwen Scope on disk: `layer{N}.sae.pt`; width and k are in the repository's name
(SAE-Res-<model>-W<N>K-L0_<k>)."""

import re

from saescope.errors import ConfigError
from saescope.formats.agreement import agree, agree_along
from saescope.formats.dialect import Dialect, file_named
from saescope.formats.recipe import Recipe, Stored, Widths, metadata, place
from saescope.formats.source import FileSource, join
from saescope.saes import TopKConfig

NAME = "qwen_scope"
CONFIG = "config.json"
_KEYS_OF_K = ("k", "top_k", "topk")
_FILE = re.compile(r"layer(\d+)\.sae\.pt")
_REPOSITORY = re.compile(r"SAE-Res-([A-Za-z0-9.-]+?)-W(\d+)K-L0_(\d+)")
_D_MODEL = {
    "Qwen3-1.7B-Base": 2048,
    "Qwen3-8B-Base": 4096,
    "Qwen3-30B-A3B-Base": 2048,
    "Qwen3.5-2B-Base": 2048,
    "Qwen3.5-9B-Base": 4096,
    "Qwen3.5-27B": 5120,
    "Qwen3.5-35B-A3B-Base": 2048,
}
"""Widths of the residual streams, for what is said before the file is opened; the file decides."""


def _of_file(source: FileSource) -> Recipe:
    return _recipe(source, Widths.of(source, "W_enc"))


def _of_name(source: FileSource) -> Recipe:
    """On the hub, where the repository's name says both widths."""
    match = _REPOSITORY.search(place(source, source.path))
    if match and match[1] in _D_MODEL and source.repo_id:
        return _recipe(source, Widths(_D_MODEL[match[1]], int(match[2]) * 1024, "float32"))
    return _of_file(source)


def _k(source: FileSource, named: int | None) -> int:
    """Read k from the name of the repository, its config.json or the catalogue: those that name it
    must agree."""
    config = source.at(CONFIG)
    settings = source.json(config) if source.exists(config) else {}
    claims: list[tuple[str, object]] = [("L0_ in the repository's name", named)]
    claims += [(f"{CONFIG}: {key}", settings[key]) for key in _KEYS_OF_K if key in settings]
    claims.append(("the catalogue's k", source.known.get("k")))
    agree(*claims)
    k = next((value for _, value in claims if value is not None), None)
    if type(k) is not int:
        raise ConfigError(
            "A Qwen Scope file does not say its k: the name of its repository does, "
            f"or a {CONFIG} next to it; got {k!r}.",
            code="AMBIGUOUS_ARCHITECTURE",
            field="k",
            hint="Load it from the hub, keep it in a folder named like the "
            'repository ("SAE-Res-<model>-W<N>K-L0_<k>"), '
            f'or put a {CONFIG} with "k" next to it.',
        )
    return k


def _recipe(source: FileSource, widths: Widths) -> Recipe:
    match = _REPOSITORY.search(place(source, source.path))
    agree_along(place(source, source.path), _REPOSITORY)
    layer = _FILE.search(source.path)
    k = _k(source, int(match[3]) if match else None)
    meta = metadata(
        source,
        NAME,
        model_name=f"Qwen/{match[1]}" if match else "",
        hook_name=f"blocks.{layer[1]}.hook_resid_post" if layer else "",
        hf_hook_name=f"model.layers.{layer[1]}" if layer else "",
    )
    cfg = TopKConfig(**widths._asdict(), k=k, apply_b_dec_to_input=False, metadata=meta)
    stored = {
        "W_enc": Stored("W_enc", turned=True),
        "W_dec": Stored("W_dec", turned=True),
        "b_enc": Stored("b_enc"),
        "b_dec": Stored("b_dec"),
    }
    return Recipe(cfg=cfg, file=source.path, stored=stored)


DIALECT = Dialect(
    name=NAME,
    matches=file_named(_FILE),
    wanted=lambda path: (path, join(path.rpartition("/")[0], CONFIG)),
    recipe=_of_file,
    preview=_of_name,
)
