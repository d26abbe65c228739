"""qresearch's SAE on DeepSeek-R1-Distill-Llama-8B: one .pt file,
`DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt`; ReLU on the residual stream."""

import re

from saescope.formats.agreement import agree_along
from saescope.formats.beside import with_neighbours
from saescope.formats.dialect import Dialect, file_named
from saescope.formats.llama_scope import STORED
from saescope.formats.recipe import Recipe, header_of, matrix, metadata, place, stored_dtype
from saescope.formats.source import FileSource
from saescope.saes import StandardConfig

NAME = "deepseek_r1"
_FILE = re.compile(r"(DeepSeek-R1-Distill-Llama-8B)-SAE-l(\d+)\.pt")
_NAME = re.compile(r"DeepSeek-R1-Distill-Llama-8B-SAE-l\d+")
_D_IN, _D_SAE = 4096, 65536
"""The widths of the published one, for what is said before the file is opened; the file decides."""


def _of_file(source: FileSource) -> Recipe:
    header = header_of(source, source.path)
    d_sae, d_in = matrix(source.path, header, "encoder.weight")
    return _recipe(source, d_in, d_sae, stored_dtype(header, "encoder.weight"))


def _of_name(source: FileSource) -> Recipe:
    """The recipe by the repository's name: on the hub there is one SAE of this kind, of known
    width."""
    return _recipe(source, _D_IN, _D_SAE, "bfloat16") if source.repo_id else _of_file(source)


def _recipe(source: FileSource, d_in: int, d_sae: int, dtype: str) -> Recipe:
    match = _FILE.search(source.path)
    agree_along(place(source, source.path), _NAME)
    meta = metadata(
        source,
        NAME,
        model_name=f"deepseek-ai/{match[1]}" if match else "",
        hook_name=f"blocks.{match[2]}.hook_resid_post" if match else "",
        context_size=1024,
    )
    cfg = StandardConfig(
        d_in=d_in, d_sae=d_sae, dtype=dtype, apply_b_dec_to_input=False, metadata=meta
    )
    return Recipe(cfg=cfg, file=source.path, stored=STORED)


DIALECT = Dialect(
    name=NAME,
    matches=file_named(_FILE),
    wanted=with_neighbours,
    recipe=_of_file,
    preview=_of_name,
)
