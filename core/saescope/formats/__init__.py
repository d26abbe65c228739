"""On-disk dialects, one file each, tried in this order. Each has:

NAME                  its name in the catalogue
matches(names)        whether these are the files of the SAE's own folder (or {file name}, if the SAE is one file)
wanted(path)          patterns, relative to the repository root, of the files that a load reads
peek(source)          configuration, and the tensors as they end up, without reading a weight
read(source, dtype)   configuration, and the tensors under our names in the field's shapes
"""

from saescope.formats import (
    circuit_tracer,
    connor_rob,
    deepseek_r1,
    dictionary_learning,
    gemma_2,
    gemma_2_transcoder,
    gemma_3,
    goodfire,
    llama_scope,
    llama_scope_r1_distill,
    mntss_clt,
    mwhanna_transcoder,
    openai_gpt2,
    qwen_scope,
    saelens,
    sparsify,
    temporal,
)
from saescope.formats.source import Source, local_source

DIALECTS = (
    saelens,
    gemma_3,
    gemma_2,
    gemma_2_transcoder,
    dictionary_learning,
    qwen_scope,
    circuit_tracer,
    mwhanna_transcoder,
    llama_scope,
    llama_scope_r1_distill,
    mntss_clt,
    connor_rob,
    temporal,
    goodfire,
    deepseek_r1,
    sparsify,
    openai_gpt2,
)
BY_NAME = {dialect.NAME: dialect for dialect in DIALECTS}

__all__ = ["BY_NAME", "DIALECTS", "Source", "local_source"]
