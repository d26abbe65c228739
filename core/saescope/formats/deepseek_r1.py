"""qresearch's SAE on DeepSeek-R1-Distill-Llama-8B: one .pt file,
`DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt`; ReLU on the residual stream."""

import re

from saescope.formats.agreement import agree_along
from saescope.formats.beside import with_neighbours
from saescope.formats.dialect import Dialect, file_named
from saescope.formats.llama_scope import STORED
from saescope.formats.recipe import Recipe, Widths, metadata, place
from saescope.formats.source import FileSource
from saescope.saes import StandardConfig

NAME = "deepseek_r1"
_FILE = re.compile(r"(DeepSeek-R1-Distill-Llama-8B)-SAE-l(\d+)\.pt")
_NAME = re.compile(r"DeepSeek-R1-Distill-Llama-8B-SAE-l\d+")
_WIDTHS = Widths(4096, 65536, "bfloat16")
"""Those of the published one, for what is said before the file is opened; the file decides."""


def _of_file(source: FileSource) -> Recipe:
    return _recipe(source, Widths.of(source, "encoder.weight"))


def _of_name(source: FileSource) -> Recipe:
    """The recipe by the repository's name: on the hub there is one SAE of this kind, of known
    width."""
    return _recipe(source, _WIDTHS) if source.repo_id else _of_file(source)


def _recipe(source: FileSource, widths: Widths) -> Recipe:
    match = _FILE.search(source.path)
    agree_along(place(source, source.path), _NAME)
    meta = metadata(
        source,
        NAME,
        model_name=f"deepseek-ai/{match[1]}" if match else "",
        hook_name=f"blocks.{match[2]}.hook_resid_post" if match else "",
        context_size=1024,
    )
    cfg = StandardConfig(**widths._asdict(), apply_b_dec_to_input=False, metadata=meta)
    return Recipe(cfg=cfg, file=source.path, stored=STORED)


DIALECT = Dialect(
    name=NAME,
    matches=file_named(_FILE),
    wanted=with_neighbours,
    recipe=_of_file,
    preview=_of_name,
)
