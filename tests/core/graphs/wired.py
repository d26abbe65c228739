"""Circuits written into the weights of a GPT-2 with ReLU, so that all true edges are known.

Everything is written in terms of named directions: vectors of two entries, +1 and -1, which no norm
turns and which share nothing. Attention heads look where they are told to, and carry named
directions; neurons read some and write some. Transcoders whose features are the neurons are
perfect, and features that do nothing can be put among them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tests.core.graphs.planted import blank, transcoder
from torch import Tensor
from transformers import AutoTokenizer

from saescope.graphs.members import HeldSet, held
from saescope.models import LanguageModel
from saescope.saes import SAE, StandardSAE

D, N_NEURONS, VOCAB, N_POSITIONS = 256, 64, 1024, 32
BOS = 2
Mix = Mapping[str, float]
"""Named directions, each with how much of it."""


@dataclass(frozen=True)
class Neuron:
    """relu(what it reads + bias), written along some directions."""

    layer: int
    index: int
    reads: Mix
    bias: float
    writes: Mix


@dataclass(frozen=True)
class Head:
    """The attention of one layer: query and key directions that find one another, and what is
    carried from where it looks, under which name."""

    layer: int
    looks: Sequence[tuple[str, str, float]]
    carries: Sequence[tuple[str, str, float]]


@dataclass(frozen=True)
class Plan:
    """A circuit with its prompt, its question and its true edges."""

    prompt: list[int]
    target: int
    edges: set[tuple[str, str]]
    n_layers: int
    tokens: Mapping[int, Mix]
    positions: Mix = field(default_factory=dict[str, float])
    """The size of each position's own direction, `p<pos>`."""
    heads: Sequence[Head] = ()
    neurons: Sequence[Neuron] = ()
    outputs: Mapping[int, Mix] = field(default_factory=dict[int, Mix])
    against: int | None = None
    node_share: float = 0.8
    """What pruning keeps: the usual share leaves out a branch that carries a few percent."""

    @property
    def ids(self) -> Tensor:
        return torch.tensor(self.prompt)


class _Directions:
    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, mix: Mix) -> Tensor:
        """The sum of these directions, each of length 1."""
        made = torch.zeros(D)
        for name, size in mix.items():
            n = self.numbers.setdefault(name, len(self.numbers))
            assert 2 * n + 1 < D, "too many directions"
            made[2 * n] += size / 2**0.5
            made[2 * n + 1] -= size / 2**0.5
        return made


def save(plan: Plan, folder: Path, tokenizer: Path, *, noise: float = 0.0001) -> Path:
    """Write the model's folder as transformers does; `noise` is in all weights that the plan does
    not use."""
    torch.manual_seed(0)
    hf = blank(width=D, n_layers=plan.n_layers, n_neurons=N_NEURONS)
    with torch.no_grad():
        _write(hf, plan, noise)
    hf.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def _write(hf: Any, plan: Plan, noise: float) -> None:
    at, body = _Directions(), hf.transformer
    body.wte.weight += noise * torch.randn(VOCAB, D)
    hf.lm_head.weight += noise * torch.randn(VOCAB, D)
    for token, mix in plan.tokens.items():
        body.wte.weight[token] = at.of(mix)
    for pos in range(N_POSITIONS):
        body.wpe.weight[pos] = at.of({f"p{pos}": plan.positions.get("p", 0.0)})
    for token, mix in plan.outputs.items():
        hf.lm_head.weight[token] = at.of(mix)
    for block in body.h:  # Conv1D: [d_in, d_out]
        block.mlp.c_fc.weight += 0.05 * torch.randn(D, N_NEURONS)
        block.mlp.c_proj.weight += noise * torch.randn(N_NEURONS, D)
    for head in plan.heads:
        attention = body.h[head.layer].attn
        for slot, (query, key, strength) in enumerate(head.looks):
            attention.c_attn.weight[:, slot] += strength * at.of({query: 1})
            attention.c_attn.weight[:, D + slot] += strength * at.of({key: 1})
        for slot, (source, name, gain) in enumerate(head.carries):
            attention.c_attn.weight[:, 2 * D + slot] += at.of({source: 1})
            attention.c_proj.weight[slot] += at.of({name: gain})
    for neuron in plan.neurons:
        mlp = body.h[neuron.layer].mlp
        mlp.c_fc.weight[:, neuron.index] = at.of(neuron.reads)
        mlp.c_fc.bias[neuron.index] = neuron.bias
        mlp.c_proj.weight[neuron.index] = at.of(neuron.writes)


def neurons(model: LanguageModel, *, idle: int = 0) -> HeldSet:
    """Transcoders whose features are the neurons, in order; after them `idle` features that fire
    and write next to nothing."""
    blocks = model.bridge.original_model.transformer.h
    saes = [transcoder(model.name, i, block.mlp, D, N_NEURONS) for i, block in enumerate(blocks)]
    return held(model, [_with_idle(sae, idle, i) for i, sae in enumerate(saes)])


def _with_idle(sae: SAE, n: int, seed: int) -> SAE:
    if not n:
        return sae
    rng, tensors = torch.Generator().manual_seed(seed), sae.tensors()
    more = {
        "W_enc": torch.randn(D, n, generator=rng) / 4,
        "b_enc": torch.zeros(n),
        "W_dec": 1e-5 * torch.randn(n, D, generator=rng),
    }
    joined = {
        name: torch.cat([tensor, more[name]], dim=-1 if name == "W_enc" else 0)
        if name in more
        else tensor
        for name, tensor in tensors.items()
    }
    return StandardSAE(replace(sae.cfg, d_sae=N_NEURONS + n), joined)  # pyright: ignore


def induction(*, n_others: int = 2) -> Plan:
    """... A B ... A -> B. In layer 0 a head looks at the token before, and a neuron knows the pair
    A B; in layer 1 a head looks to where the present token was the one before, and carries the
    pair, from which a neuron writes B."""
    a, b = 100, 101
    others = [(102 + 2 * n, 103 + 2 * n) for n in range(n_others)]
    pairs = [*others[:1], (a, b), *others[1:]]
    prompt = [BOS, *(token for pair in pairs for token in pair), a]
    words = [BOS, *(token for pair in pairs for token in pair)]
    last, at_a = len(prompt) - 1, prompt.index(a)
    made: list[Neuron] = []
    for n, (one, other) in enumerate(pairs):
        made += [
            Neuron(0, 3 + n, {f"t{other}": 1, f"v{one}": 1}, -15, {f"b{n}": 0.6}),
            Neuron(1, 7 + n, {f"c{n}": 1, f"t{one}": 1}, -12, {f"u{other}": 1}),
        ]
    n = pairs.index((a, b))
    pair, recall = f"f0.{3 + n}@{at_a + 1}", f"f1.{7 + n}@{last}"
    return Plan(
        prompt=prompt,
        target=b,
        n_layers=2,
        edges={
            (f"t@{at_a}", pair),
            (f"t@{at_a + 1}", pair),
            (pair, recall),
            (f"t@{last}", recall),
            (recall, f"o{b}"),
        },
        tokens={word: {f"t{word}": 3} for word in words},
        positions={"p": 2},
        heads=[
            Head(
                0,
                [(f"p{pos}", f"p{pos - 1}", 2) for pos in range(1, len(prompt))],
                [(f"t{word}", f"v{word}", 0.225) for word in words],
            ),
            Head(
                1,
                [(f"t{word}", f"v{word}", 2) for word in words],
                [(f"b{n}", f"c{n}", 0.4) for n in range(len(pairs))],
            ),
        ],
        neurons=made,
        outputs={word: {f"u{word}": 4} for word in words},
    )


def greater_than(*, year: int = 5, high: int = 7, low: int = 3) -> Plan:
    """ "from 5 to" -> a number above 5. A neuron of layer 0 at the year writes how large it is; a
    head of layer 1 carries that to "to", where neuron k fires from year k on and raises all numbers
    above k: of the difference of two numbers those between them answer."""
    numbers = [110 + k for k in range(10)]
    filler, to = 120, 121
    prompt = [BOS, filler, numbers[year], filler, to]
    last, size = len(prompt) - 1, "f0.5@2"
    counting = [
        Neuron(1, 10 + k, {"z": 2.2}, 0.85 - k, {f"u{j}": 0.04 for j in numbers[k + 1 :]})
        for k in range(1, 9)
    ]
    answering = [k for k in range(1, 9) if k <= year and low <= k < high]
    edges = {("t@2", size)}
    edges |= {(size, f"f1.{10 + k}@{last}") for k in answering}
    edges |= {(f"f1.{10 + k}@{last}", f"o{numbers[high]}-{numbers[low]}") for k in answering}
    tokens: dict[int, Mix] = {
        token: {"number": 3, f"t{token}": 2, "y": 0.5 * k, "rest": (25 - k * k / 4) ** 0.5}
        for k, token in enumerate(numbers)
    }
    tokens |= {token: {f"t{token}": 3} for token in (BOS, filler, to)}
    return Plan(
        prompt=prompt,
        target=numbers[high],
        against=numbers[low],
        n_layers=2,
        edges=edges,
        tokens=tokens,
        heads=[Head(1, [(f"t{to}", "number", 2)], [("s", "z", 0.5)])],
        neurons=[Neuron(0, 5, {"y": 1}, 0.0, {"s": 0.05}), *counting],
        outputs={token: {f"u{token}": 30} for token in numbers},
        node_share=0.98,
    )


def relay(seed: int) -> Plan:
    """Two words, four layers, weights by lot: each word has a feature at its own place, heads of
    layers 1 and 2 carry them to the end one after the other, features there add them up, with a
    way round and one that takes away. Beside it features that fire as strongly, and write where
    nothing reads."""
    lot = random.Random(seed)
    one, other, filler, end, answer, rival = range(130, 136)
    prompt = [BOS, filler, one, filler, other, filler, end]
    last, at_one, at_other = len(prompt) - 1, prompt.index(one), prompt.index(other)

    def size(low: float, high: float) -> float:
        return lot.uniform(low, high)

    indices = lot.sample(range(N_NEURONS), 10)
    first, second, joined, whole, out, less, *idle = indices
    made = [
        Neuron(0, first, {f"t{one}": size(0.6, 1)}, -2, {"a": size(0.3, 0.5)}),
        Neuron(0, second, {f"t{other}": size(0.6, 1)}, -2, {"b": size(0.3, 0.5)}),
        Neuron(1, joined, {"a1": size(0.6, 1)}, -0.5, {"c": size(0.8, 1.2)}),
        Neuron(2, whole, {"c": size(0.6, 1), "b1": size(0.6, 1)}, -1, {"d": size(0.5, 0.8)}),
        Neuron(3, out, {"d": size(0.6, 1), "c": size(0.3, 0.5)}, -1, {"u": size(0.6, 0.9)}),
        Neuron(3, less, {"c": size(0.6, 1)}, -1, {"u": -size(0.3, 0.4)}),
    ]
    made += [
        Neuron(layer, n, {f"t{end}": 1, f"t{filler}": 1}, -1, {f"x{layer}": 0.2})
        for layer, n in enumerate(idle)
    ]
    a, b, c, d = (
        f"f0.{first}@{at_one}",
        f"f0.{second}@{at_other}",
        f"f1.{joined}@{last}",
        f"f2.{whole}@{last}",
    )
    top, minus = f"f3.{out}@{last}", f"f3.{less}@{last}"
    return Plan(
        prompt=prompt,
        target=answer,
        n_layers=4,
        edges={
            *((f"t@{at_one}", a), (f"t@{at_other}", b), (a, c), (c, d), (b, d)),
            *((d, top), (c, top), (c, minus), (top, f"o{answer}"), (minus, f"o{answer}")),
        },
        tokens={token: {f"t{token}": 3} for token in (BOS, one, other, filler, end)},
        heads=[
            Head(1, [(f"t{end}", f"t{one}", 2)], [("a", "a1", size(0.6, 0.9))]),
            Head(2, [(f"t{end}", f"t{other}", 2)], [("b", "b1", size(0.6, 0.9))]),
        ],
        neurons=made,
        outputs={answer: {"u": 4}, rival: {"x0": 1}},
        node_share=0.98,
    )
