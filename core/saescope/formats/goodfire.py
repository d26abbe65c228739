"""Goodfire's SAEs on disk: one .pt or .pth file, `<model>-SAE-l<layer>`; ReLU on the residual
stream."""

import re

from saescope.formats.agreement import agree_along
from saescope.formats.beside import with_neighbours
from saescope.formats.dialect import Dialect, file_named
from saescope.formats.recipe import Recipe, Stored, Widths, metadata, place
from saescope.formats.source import FileSource
from saescope.saes import StandardConfig

NAME = "goodfire"
_FILE = re.compile(r"(Llama-3\.\d-(\d+)B-Instruct)-SAE-l(\d+)\.pth?")
_NAME = re.compile(r"Llama-3\.\d-\d+B-Instruct-SAE-l\d+")
_WIDTHS = {"8": Widths(4096, 65536, "float32"), "70": Widths(8192, 65536, "float32")}
"""Those of the published ones by model size, for what is said before the file is opened; the file
decides."""


def _of_file(source: FileSource) -> Recipe:
    return _recipe(source, Widths.of(source, "encoder_linear.weight"))


def _of_name(source: FileSource) -> Recipe:
    """On the hub, where the width of the model is known."""
    match = _FILE.search(source.path)
    if match and source.repo_id and match[2] in _WIDTHS:
        return _recipe(source, _WIDTHS[match[2]])
    return _of_file(source)


def _recipe(source: FileSource, widths: Widths) -> Recipe:
    match = _FILE.search(source.path)
    agree_along(place(source, source.path), _NAME)
    meta = metadata(
        source,
        NAME,
        model_name=f"meta-llama/{match[1]}" if match else "",
        hook_name=f"blocks.{match[3]}.hook_resid_post" if match else "",
    )
    cfg = StandardConfig(**widths._asdict(), apply_b_dec_to_input=False, metadata=meta)
    stored = {
        "W_enc": Stored("encoder_linear.weight", turned=True),
        "W_dec": Stored("decoder_linear.weight", turned=True),
        "b_enc": Stored("encoder_linear.bias"),
        "b_dec": Stored("decoder_linear.bias"),
    }
    return Recipe(cfg=cfg, file=source.path, stored=stored)


DIALECT = Dialect(
    name=NAME,
    matches=file_named(_FILE),
    wanted=with_neighbours,
    recipe=_of_file,
    preview=_of_name,
)
