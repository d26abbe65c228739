"""Planted worlds: the tests' small language model, with an SAE in which it is known which feature
fires on a made-up topic and also writes its words.

Fixed before any player was tuned: a change of this file or of `texts.py` is a new benchmark
(`VERSION`), and old numbers do not compare with new ones.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import NamedTuple

import torch
from torch import Tensor

from agent_evals.bench import GLASS
from agent_evals.scientist.evaluate import summed
from agent_evals.scientist.lab import Writer
from agent_evals.scientist.scores import nats_rating
from agent_evals.scientist.texts import WORDS, beginnings, examples, filled
from agent_evals.scientist.wish import Examples, Ground, Hidden, Wish
from saescope.saes import SAEMetadata, StandardConfig, StandardSAE

VERSION = 1
N_TOPICS, N_WORDS, N_FILLERS, N_PROMPTS = 8, 5, 200, 33
NONE_EVERY = 4
"""One topic in so many has no good feature."""
PUSHES = (0.35, 0.45, 0.55, 0.7, 0.9)
"""Reference strengths that are tried for a true feature, in median norms of the residual."""
STEPS, N_CLIMBED = 40, 5
"""Steps of the search for a direction that writes, and the prompts that it climbs on."""


class Topic(NamedTuple):
    """A made-up concept: its words, and those of the ones next to it."""

    name: str
    words: list[str]
    beside: list[str]
    """Of the next: the polysemantic feature of this topic fires on these too."""
    before: list[str]
    wants_true: bool


class Planting(NamedTuple):
    """A feature to plant: which words it fires on, how strongly, and what it writes."""

    kind: str
    topic: str
    fires_on: list[str]
    activation: float
    writes: Tensor


class Soil(NamedTuple):
    """What a world grows from: the model at one layer, activations of many texts, and chance."""

    writer: Writer
    x: Tensor
    """[n, d_in]"""
    words: list[str]
    """The word at each position."""
    size: float
    """The median norm of the activations."""
    quiet: Tensor
    """A basis, in rows, of the directions to which predictions are deaf."""
    loud: Tensor
    """A basis of those to which they listen most."""
    rng: Random
    noise: torch.Generator
    prompts: list[str]
    """Those that writing is measured on."""


def make_world(seed: int, folder: Path, *, n_topics: int = N_TOPICS) -> Ground:
    """A world of its own for each seed: topics, layer, features and their order differ."""
    rng, noise = Random(seed), torch.Generator().manual_seed(seed)
    model = Path(shutil.copytree(GLASS, folder / "model", dirs_exist_ok=True))
    topics, plain = topics_of(rng, n_topics)
    starts = beginnings(rng, plain, N_PROMPTS + N_CLIMBED)
    soil = _soil(Writer(model, seed % 3), _texts(rng, topics, plain), rng, noise)
    soil = soil._replace(prompts=starts[:25])
    drawn = _writers(soil, topics, starts[N_PROMPTS:])
    strengths = {
        topic.name: _strength(soil, topic, drawn[topic.name]) if topic.wants_true else None
        for topic in topics
    }
    rows = [row for topic in topics for row in _plantings(soil, topic, topics, drawn, strengths)]
    places = rng.sample(range(len(rows) + N_FILLERS), len(rows))
    sae = _planted(soil, rows, places).save(folder / "sae")
    usual = median([one for one in strengths.values() if one] or [soil.size / 2])
    experts = {row.topic: place for place, row in zip(places, rows, strict=True) if _is_true(row)}
    return Ground(
        name=f"planted-{seed}",
        model=model,
        sae=sae,
        wishes=[_wish(topic, plain, starts[25:N_PROMPTS], seed) for topic in topics],
        hidden={
            topic.name: Hidden(
                _examples(topic, plain, f"{seed} {topic.name} hidden"),
                starts[:5],
                starts[5:25],
                strengths[topic.name] or usual,
                experts.get(topic.name),
            )
            for topic in topics
        },
        kinds={place: f"{row.kind}:{row.topic}" for place, row in zip(places, rows, strict=True)},
    )


def _is_true(row: Planting) -> bool:
    return row.kind == "true"


def topics_of(rng: Random, n: int) -> tuple[list[Topic], list[str]]:
    """Topics of different words, and the words that are left."""
    words = rng.sample(WORDS, len(WORDS))
    sets = [words[i * N_WORDS : (i + 1) * N_WORDS] for i in range(n)]
    return [
        Topic(
            f"topic-{i}", sets[i], sets[(i + 1) % n], sets[i - 1], i % NONE_EVERY < NONE_EVERY - 1
        )
        for i in range(n)
    ], words[n * N_WORDS :]


def _wish(topic: Topic, plain: list[str], prompts: list[str], seed: int) -> Wish:
    return Wish(
        topic.name,
        f"A made-up topic: texts with the words {', '.join(topic.words)}.",
        [f" {word}" for word in topic.words],
        _examples(topic, plain, f"{seed} {topic.name} shown"),
        prompts,
    )


def _examples(topic: Topic, plain: list[str], seed: str) -> Examples:
    """Texts of the topic, of both topics next to it, and of none."""
    return examples(Random(seed), topic.words, [topic.beside, topic.before], plain)


def _texts(rng: Random, topics: list[Topic], plain: list[str]) -> list[str]:
    """Texts of each topic, of none and of all words."""
    sets = [*(topic.words for topic in topics), plain, plain, WORDS, WORDS]
    return [filled(rng, words) for words in sets for _ in range(40)]


def _soil(writer: Writer, texts: list[str], rng: Random, noise: torch.Generator) -> Soil:
    """Activations over the texts, and over random tokens."""
    vocabulary = [writer.tokenizer.decode([i]) for i in range(4, writer.hf.config.vocab_size)]
    texts = texts + ["".join(rng.choices(vocabulary, k=14)) for _ in range(200)]
    x = torch.cat(writer.residuals(texts))
    ids = [i for text in texts for i in writer.tokenizer(text)["input_ids"][1:]]
    words = [writer.tokenizer.decode([i]).strip() for i in ids if i not in writer.special]
    size, ears = float(x.norm(dim=-1).median()), _ears(writer, rng.sample(texts, 300), noise)
    return Soil(writer, x, words, size, *ears, rng=rng, noise=noise, prompts=[])


def _writers(soil: Soil, topics: list[Topic], prompts: list[str]) -> dict[str, Tensor]:
    """A direction of norm 1 for each topic that writes its words through the layers above, found by
    gradient ascent on their log-probability, together and each, less the KL."""
    writer, n, n_rows = soil.writer, len(topics), len(prompts)
    ids = torch.tensor([[writer.token(f" {word}") for word in topic.words] for topic in topics])
    rows, counted = writer.padded([writer.ids_of(one) for one in prompts], left=False)
    clean = writer.hf(input_ids=rows).logits.log_softmax(-1).detach().repeat(n, 1, 1)
    which = ids.repeat_interleave(n_rows, 0)[:, None].expand(-1, rows.shape[1], -1)
    vectors = torch.randn(n, soil.x.shape[1], generator=soil.noise).mul_(0.1).requires_grad_()
    step = torch.optim.Adam([vectors], lr=0.1)
    for _ in range(STEPS):
        pushed = 0.7 * soil.size * vectors / vectors.norm(dim=-1, keepdim=True)
        each = pushed.repeat_interleave(n_rows, 0)[:, None]
        with writer.at_layer(lambda x, each=each: x + each):
            logprobs = writer.hf(input_ids=rows.repeat(n, 1)).logits.log_softmax(-1)
        own = logprobs.gather(-1, which)
        kl = (clean.exp() * (clean - logprobs)).sum(-1)
        gain = (own.logsumexp(-1) + 0.3 * own.mean(-1) - kl) * counted.repeat(n, 1)
        step.zero_grad()
        (-gain.sum() / counted.sum()).backward()
        step.step()
    units = vectors.detach() / vectors.detach().norm(dim=-1, keepdim=True)
    return {topic.name: unit for topic, unit in zip(topics, units, strict=True)}


def _strength(soil: Soil, topic: Topic, unit: Tensor) -> float | None:
    """The smallest push that steers to the topic's words with room to spare; None: none does."""
    ids = [soil.writer.token(f" {word}") for word in topic.words]
    for push in PUSHES:
        (rated,) = soil.writer.rate([unit * push * soil.size], soil.prompts, ids)
        steered = summed(rated, [])
        if steered.success >= 0.85 and steered.usable >= 0.65 and steered.whole >= 0.95:
            return push * soil.size
    return None


def _plantings(
    soil: Soil,
    topic: Topic,
    topics: list[Topic],
    drawn: dict[str, Tensor],
    strengths: dict[str, float | None],
) -> list[Planting]:
    """Everything that is planted for one topic."""
    own, rng = drawn[topic.name], soil.rng
    beside = next(each for each in topics if each.words == topic.beside)
    strength = strengths[topic.name]
    usual = strength or median([one for one in strengths.values() if one] or [soil.size / 2])
    both = [*topic.words, *topic.beside]

    def planting(kind: str, fires_on: list[str], writes: Tensor) -> Planting:
        activation = usual * rng.uniform(0.6, 1.2)
        return Planting(kind, topic.name, fires_on, activation, writes / writes.norm())

    others = [drawn[each.name] for each in topics if each not in (topic, beside)]
    elsewhere = rng.choice(others) if others else _mute(soil)
    rows = [
        planting(kind, topic.words, _harmless(soil, topic, own, usual * writes / writes.norm()))
        for kind, writes in {
            "mute": _mute(soil),
            "mute too": _mute(soil),
            "elsewhere": elsewhere,
            "breaker": 3 * _random(soil) @ soil.loud.T @ soil.loud + 0.3 * own,
            "lens": _by_lens(soil, topic.words),
            "opposite": -own,
        }.items()
    ]
    rows.append(planting("poly", both, own + drawn[beside.name]))
    if strength:
        rows.append(planting("true", topic.words, own))
        rows.append(planting("silent", [], own + 0.3 * _random(soil)))
        fires_on = rng.sample([word for word in WORDS if word not in both], 3)
        rows.append(planting("silent too", fires_on, own + 0.3 * _random(soil)))
    return rows


def _harmless(soil: Soil, topic: Topic, own: Tensor, writes: Tensor) -> Tensor:
    """What it writes at its strength, less as much of what steers to the topic as it takes not to
    steer at half as much again."""
    ids = [soil.writer.token(f" {word}") for word in topic.words]
    strength = writes.norm()
    for shares in ((0.0,), (0.25, 0.5, 0.75, 1.0, 1.5)):
        left = [writes - share * strength * own for share in shares]
        pushes = [1.5 * strength * each / each.norm() for each in left]
        for each, rises in zip(
            left, soil.writer.rises(pushes, soil.prompts[:10], ids), strict=True
        ):
            if mean(nats_rating(rise) >= 2 for rise in rises) <= 0.25:
                return each
    return -own


def _mute(soil: Soil) -> Tensor:
    return _random(soil) @ soil.quiet.T @ soil.quiet


def _random(soil: Soil) -> Tensor:
    noise = torch.randn(soil.x.shape[1], generator=soil.noise)
    return noise / noise.norm()


def _by_lens(soil: Soil, words: list[str]) -> Tensor:
    """The direction whose logit lens promotes the words most."""
    unembed, norm = soil.writer.hf.lm_head.weight, soil.writer.hf.model.norm.weight
    ids = [soil.writer.token(f" {word}") for word in words]
    row = norm * (unembed[ids].mean(0) - unembed.mean(0))
    return row / row.norm()


def _ears(writer: Writer, texts: Sequence[str], noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bases of the directions to which predictions are deaf, and to which they listen most: the
    ends of the spectrum of gradients of the log-probability of sampled next tokens."""
    rows = [writer.ids_of(text) for text in texts]
    ids = torch.tensor([row[:10] for row in rows if len(row) >= 10])
    vectors = torch.zeros(len(ids), writer.hf.config.hidden_size, requires_grad=True)
    with writer.at_layer(lambda x: x + vectors[:, None]):
        logprobs = writer.hf(input_ids=ids).logits[:, -1].log_softmax(-1)
    sampled = torch.multinomial(logprobs.detach().exp(), 1, generator=noise)
    (slopes,) = torch.autograd.grad(logprobs.gather(-1, sampled).sum(), [vectors])
    basis = torch.linalg.eigh(slopes.T @ slopes).eigenvectors.T  # smallest first
    return basis[: len(basis) // 3], basis[-len(basis) // 12 :]


def _planted(soil: Soil, rows: Sequence[Planting], places: Sequence[int]) -> StandardSAE:
    """The SAE: the planted features at their places, and detectors of single words elsewhere that
    rebuild what they can."""
    middle = soil.x.mean(0)
    x = soil.x - middle
    n, d_in = len(rows) + N_FILLERS, x.shape[1]
    W_enc, b_enc, W_dec = torch.zeros(n, d_in), torch.zeros(n), torch.zeros(n, d_in)
    for place, row in zip(places, rows, strict=True):
        part = torch.rand(len(x), generator=soil.noise) < 0.7
        reader = _Reader(soil, x, _inverse(x[part], soil.size), part)
        W_enc[place], b_enc[place] = reader.of(row.fires_on, row.activation)
        W_dec[place] = row.writes / row.writes.norm()
    counts = Counter(soil.words)
    common = sorted(word for word, n_seen in counts.items() if n_seen >= 5)
    others = sorted({*range(n)} - {*places})
    every = _Reader(soil, x, _inverse(x, soil.size), torch.ones(len(x), dtype=torch.bool))
    for i in others:
        words = soil.rng.sample(common, soil.rng.choice((1, 1, 2)))
        W_enc[i], b_enc[i] = every.of(words, soil.size * soil.rng.uniform(0.3, 1))
    acts = (x @ W_enc[others].T + b_enc[others]).relu()
    ridge = 0.01 * float((acts**2).sum(0).mean()) * torch.eye(len(others))
    W_dec[others] = torch.linalg.solve(acts.T @ acts + ridge, acts.T @ x)
    metadata = SAEMetadata(
        model_name=GLASS.name,
        hook_name=f"blocks.{soil.writer.layer}.hook_resid_post",
        prepend_bos=False,
        context_size=64,
    )
    cfg = StandardConfig(d_in=d_in, d_sae=n, metadata=metadata)
    tensors = {"W_enc": W_enc.T.contiguous(), "b_enc": b_enc, "W_dec": W_dec, "b_dec": middle}
    return StandardSAE(cfg, tensors)


def _inverse(x: Tensor, size: float) -> Tensor:
    return torch.linalg.inv(x.T @ x + 0.02 * size**2 * torch.eye(x.shape[1]))


class _Reader(NamedTuple):
    """What encoder rows are fitted on: centred activations, and the inverse of the second moments
    of a part of them."""

    soil: Soil
    x: Tensor
    inverse: Tensor
    part: Tensor

    def of(self, words: Sequence[str], activation: float) -> tuple[Tensor, Tensor]:
        """An encoder row and bias that fire on the words, with this activation on average: ridge
        regression, cut off above what most other words reach. Without words one that never
        fires."""
        soil = self.soil
        if not words:
            return 0.01 * _random(soil), torch.tensor(-10.0)
        level = {word: soil.rng.uniform(0.8, 1.2) for word in words}
        y = torch.tensor([level.get(word, 0.0) for word in soil.words])
        row = self.inverse @ (self.x[self.part].T @ y[self.part])
        score, is_word = self.x @ row, y > 0
        low = score[~is_word].quantile(soil.rng.uniform(0.985, 0.998))
        cut = torch.maximum(low, 0.25 * score[is_word].quantile(0.5))
        gain = activation / (score[is_word] - cut).relu().mean().clamp_min(1e-3)
        return gain * row, -gain * cut
