"""A model with a circuit written into its weights: from a city, over its state, to the capital.

GPT-2 with ReLU and two layers. Each token has a direction of its own. In layer 0 a neuron that
reads a city's direction writes that of its state; attention of layer 1 spreads that over the text;
in layer 1 a neuron that reads both the state and the word "capital" writes the capital's direction,
which is what the unembedding reads. Other neurons fire and write next to nothing.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from saescope.graphs.members import HeldSet, held
from saescope.models import LanguageModel
from saescope.saes import SAE, SAEMetadata, StandardConfig, StandardSAE

D, N_NEURONS, VOCAB = 64, 40, 1024
BOS, CITY, OTHER_CITY, CAPITAL, FILLER = 2, 100, 101, 102, 103
ANSWER, OTHER_ANSWER = 200, 201
STATE, OTHER_STATE = 40, 41
"""Directions that no token has."""
PROMPT = torch.tensor([BOS, FILLER, CITY, FILLER, CAPITAL])
TOKENS = {CITY: 30, OTHER_CITY: 31, CAPITAL: 32, FILLER: 33, ANSWER: 34, OTHER_ANSWER: 35, BOS: 36}
"""The direction of each token that the circuit knows."""
LOOKUP, OTHER_LOOKUP = 3, 4
"""Neurons of layer 0."""
RECALL, OTHER_RECALL = 7, 8
"""Neurons of layer 1."""
TRUE_EDGES = {
    ("t@2", f"f0.{LOOKUP}@2"),
    (f"f0.{LOOKUP}@2", f"f1.{RECALL}@4"),
    ("t@4", f"f1.{RECALL}@4"),
    (f"f1.{RECALL}@4", f"o{ANSWER}"),
}


def blank(*, width: int, n_layers: int, n_neurons: int) -> GPT2LMHeadModel:
    """A GPT-2 with ReLU, one head a layer, whose weights are 0 and norms 1."""
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=width,
        n_layer=n_layers,
        n_head=1,
        n_inner=n_neurons,
        n_positions=32,
        activation_function="relu",
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=3,
    )
    hf: Any = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        for module in hf.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1)
    return hf


def save(folder: Path, tokenizer: Path) -> Path:
    """Write the model's folder as transformers does."""
    torch.manual_seed(0)
    hf = blank(width=D, n_layers=2, n_neurons=N_NEURONS)
    with torch.no_grad():
        _write(hf)
    hf.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def _write(hf: Any) -> None:
    directions = torch.eye(D) - 1 / D  # what is left of them by a norm that takes the mean out
    transformer, noise = hf.transformer, 0.01
    transformer.wte.weight += 0.02 * torch.randn(VOCAB, D)
    for token, direction in TOKENS.items():
        transformer.wte.weight[token] = 3 * directions[direction]
    hf.lm_head.weight += noise * torch.randn(VOCAB, D)
    for token in (ANSWER, OTHER_ANSWER):
        hf.lm_head.weight[token] = 4 * directions[TOKENS[token]]
    first, second = (block.mlp for block in transformer.h)
    for mlp in (first, second):  # Conv1D: [d_in, d_out]
        mlp.c_fc.weight += 0.05 * torch.randn(D, N_NEURONS)
        mlp.c_fc.bias += 0.05 * torch.randn(N_NEURONS)
        mlp.c_proj.weight += noise * torch.randn(N_NEURONS, D)
    pairs = ((LOOKUP, CITY, STATE), (OTHER_LOOKUP, OTHER_CITY, OTHER_STATE))
    for neuron, city, state in pairs:
        _set(first, neuron, {TOKENS[city]: 1.0}, bias=-3.0, writes={state: 3.0})
    # Attention of layer 1 looks everywhere alike and carries states alone.
    attention = transformer.h[1].attn
    for state in (STATE, OTHER_STATE):
        attention.c_attn.weight[state, 2 * D + state] = 3.0
        attention.c_proj.weight[state, state] = 1.0
    recalls = ((RECALL, STATE, ANSWER), (OTHER_RECALL, OTHER_STATE, OTHER_ANSWER))
    for neuron, state, answer in recalls:
        reads = {state: 1.0, TOKENS[CAPITAL]: 1.0}
        _set(second, neuron, reads, bias=-7.0, writes={TOKENS[answer]: 3.0})


def _set(
    mlp: Any, neuron: int, reads: dict[int, float], *, bias: float, writes: dict[int, float]
) -> None:
    into, out = mlp.c_fc, mlp.c_proj
    into.weight[:, neuron], into.bias[neuron] = 0, bias
    out.weight[neuron] = 0
    for direction, weight in reads.items():
        into.weight[direction, neuron] = weight
    for direction, weight in writes.items():
        out.weight[neuron, direction] = weight


def neurons(model: LanguageModel) -> HeldSet:
    """Perfect transcoders: their features are the neurons."""
    blocks = model.bridge.original_model.transformer.h
    return held(model, [transcoder(model.name, i, block.mlp) for i, block in enumerate(blocks)])


def transcoder(
    model_name: str, layer: int, mlp: Any, d: int = D, n_neurons: int = N_NEURONS
) -> SAE:
    """A perfect transcoder of one MLP: its features are the neurons."""
    weights = {name: value.detach() for name, value in mlp.named_parameters()}

    def of(part: str, kind: str) -> Tensor:
        return next(v for name, v in weights.items() if f"{part}." in name and name.endswith(kind))

    cfg = StandardConfig(
        d_in=d,
        d_sae=n_neurons,
        d_out=d,
        dtype="float32",
        apply_b_dec_to_input=False,
        transcoder=True,
        metadata=SAEMetadata(
            model_name=model_name,
            hook_name=f"blocks.{layer}.mlp.hook_in",
            hook_name_out=f"blocks.{layer}.hook_mlp_out",
        ),
    )
    return StandardSAE(
        cfg,
        {
            "W_enc": of("c_fc", "weight").clone(),
            "b_enc": of("c_fc", "bias").clone(),
            "W_dec": of("c_proj", "weight").clone(),
            "b_dec": of("c_proj", "bias").clone(),
        },
    )
