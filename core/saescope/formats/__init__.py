"""On-disk dialects, a file each, tried in the order of `DIALECTS`. A new one is its file and its
line here (`dialect.Dialect`)."""

from saescope.formats import (
    circuit_tracer,
    connor_rob,
    deepseek_r1,
    dictionary_learning,
    gemma_2,
    gemma_3,
    goodfire,
    llama_scope,
    llama_scope_r1_distill,
    mntss_clt,
    openai_gpt2,
    qwen_scope,
    saelens,
    sparsify,
    temporal,
)
from saescope.formats.dialect import Dialect
from saescope.formats.source import FileSource, local_source

DIALECTS = (
    saelens.DIALECT,
    gemma_3.DIALECT,
    gemma_2.SAES,
    gemma_2.TRANSCODERS,
    dictionary_learning.DIALECT,
    qwen_scope.DIALECT,
    circuit_tracer.SETS,
    circuit_tracer.MWHANNA,
    llama_scope.DIALECT,
    llama_scope_r1_distill.DIALECT,
    mntss_clt.DIALECT,
    connor_rob.DIALECT,
    temporal.DIALECT,
    goodfire.DIALECT,
    deepseek_r1.DIALECT,
    sparsify.DIALECT,
    openai_gpt2.DIALECT,
)
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}

__all__ = ["BY_NAME", "DIALECTS", "Dialect", "FileSource", "local_source"]
