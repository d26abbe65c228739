"""One gradient for all features, and real pushes: what is added where an SAE writes, at every
position that counts, and how it changes what given texts say of a concept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from saescope.hooks import edit_activations
from saescope.ops import SparseActs, joined
from saescope.precision import wide
from saescope.progress import Advance
from saescope.search.concept import ForcedText, shares_of, sides_of
from saescope.splice import add_at_site, site_edits
from saescope.stack import Stack
from saescope.variants import MAX_TOKENS, Variants, forward_variants

MOST_LOGITS = 2**24
"""Logits that are held at once, over rows, positions and the vocabulary."""
MOST_BEYOND = 1.5
"""How far a curve is continued beyond its last push, as a factor of the strength."""


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """Texts of a concept as an SAE sees them, from the clean run."""

    stack: Stack
    texts: list[ForcedText]
    profiles: list[Float[Tensor, " _"]]
    """How much of a push is added at each position of each text: the scale of the SAE's output,
    0 at positions that do not count."""
    acts: SparseActs
    """What fires at the counted positions of the prompts, each once."""
    n_prompts: int


class PushEffects(NamedTuple):
    """What pushes do, by prompt."""

    concept: Float64[Tensor, "n n_prompts"]
    """The change of the concept's log-probability, in nats."""
    kl: Float64[Tensor, "n n_prompts"]
    """KL(clean || pushed), the mean over the predictions that are read."""


class AtKL(NamedTuple):
    """A push scaled so that predictions change by a given KL."""

    effects: Float64[Tensor, " n_prompts"]
    strength: float
    """The factor of the push."""


def read_texts(stack: Stack, texts: Sequence[ForcedText]) -> ReadTexts:
    """Read the texts once, those of one shape together."""
    sae, profiles = stack.saes[0], dict[int, Tensor]()
    acts: list[SparseActs] = []
    seen = set[int]()
    for group in _groups(stack, texts):
        site = stack.read(torch.stack([texts[i].ids for i in group]).to(stack.model.device))[0]
        usual = torch.stack([texts[i].usual for i in group]).to(site.x.device)
        sinks = torch.zeros_like(usual) if site.sinks is None else site.sinks.reshape(usual.shape)
        scale = sae.scale(site.x)
        sizes = torch.ones_like(site.x[:, 0]) if scale is None else scale.outer[:, 0]
        rows = (usual & ~sinks.to(usual.device)) * sizes.reshape(usual.shape)
        profiles |= dict(zip(group, rows, strict=True))
        firsts = {i for i in group if texts[i].prompt not in seen and not _is_told(texts, i, group)}
        seen |= {texts[i].prompt for i in firsts}
        mask = torch.stack([_own(texts[i], rows[n], i in firsts) for n, i in enumerate(group)])
        acts.append(site.acts.select(mask.flatten()[site.acts.positions]))
    n_prompts = 1 + max(text.prompt for text in texts)
    ordered = [profiles[i] for i in range(len(texts))]
    return ReadTexts(stack, [*texts], ordered, joined(acts), n_prompts)


def _is_told(texts: Sequence[ForcedText], i: int, group: Sequence[int]) -> bool:
    """An earlier text of this batch has the same prompt."""
    return any(texts[j].prompt == texts[i].prompt for j in group if j < i)


def _own(text: ForcedText, profile: Tensor, is_first: bool) -> Bool[Tensor, " n_pos"]:
    """Counted positions of the prompt alone; none of a text whose prompt was read already."""
    mask = profile != 0
    mask[text.n_prompt :] = False
    return mask & is_first


def _groups(stack: Stack, texts: Sequence[ForcedText]) -> Iterator[list[int]]:
    """Places of texts of one shape, as many as may be one batch."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i, text in enumerate(texts):
        by_shape.setdefault(text.shape, []).append(i)
    for shape, places in by_shape.items():
        size = _rows_at_once(stack, shape)
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _rows_at_once(stack: Stack, shape: tuple[int, int]) -> int:
    n_pos, n_out = shape
    return max(1, min(MAX_TOKENS // n_pos, MOST_LOGITS // (n_out * stack.model.d_vocab)))


def concept_gradients(read: ReadTexts) -> Float64[Tensor, "n_prompts d_out"]:
    """For each prompt d concept / d push: the gradient where the SAE writes, summed over the
    positions that a push changes. Times a decoder row it is that feature's first-order effect."""
    stack, texts = read.stack, read.texts
    own = torch.zeros(len(texts), stack.saes[0].cfg.d_out, dtype=torch.float64)
    values = torch.zeros(len(texts), dtype=torch.float64)
    for group in _groups(stack, texts):
        values[group], gradient = _gradient(stack, [texts[i] for i in group])
        for n, i in enumerate(group):
            summed = (read.profiles[i].to(gradient)[:, None] * gradient[n]).sum(0)
            own[i] = summed.cpu().double()
    shares = shares_of(texts, values) * torch.tensor([text.side for text in texts])
    total = torch.zeros(read.n_prompts, own.shape[1], dtype=torch.float64)
    prompts = torch.tensor([text.prompt for text in texts])
    return total.index_add_(0, prompts, shares[:, None] * own)


def _gradient(
    stack: Stack, texts: Sequence[ForcedText]
) -> tuple[Float64[Tensor, " n"], Float[Tensor, "n n_pos d_out"]]:
    """The texts' values and their gradients at the site, from one pass forward and back."""
    model, leaves = stack.model, list[Tensor]()

    def attach(read: Tensor, written: Tensor) -> Tensor:
        leaves[:] = [written.detach().clone().requires_grad_()]
        return leaves[0].clone()  # some families add in place to what is given here

    ids, n_out = torch.stack([text.ids for text in texts]).to(model.device), texts[0].n_out
    with torch.enable_grad():
        with edit_activations(model, site_edits(stack.saes[0], attach)):
            logits = model.forward(ids, last=n_out, grad=True)[0][:, -n_out:]
        # Each row depends on its own leaf alone: one backward pass gives every row's gradient.
        told = wide(logits).log_softmax(-1)
        values = torch.stack([text.value(row) for text, row in zip(texts, told, strict=True)])
        (gradient,) = torch.autograd.grad(values.sum(), leaves[0])
    return values.detach().cpu(), gradient.detach().flatten(2).float()


class _Pushed(NamedTuple):
    """Pushes on one text."""

    value: Float64[Tensor, ""]
    """The clean one."""
    moved: Float64[Tensor, " n"]
    kl: Float64[Tensor, " n"]


def push(read: ReadTexts, vectors: Float[Tensor, "n d_out"], advance: Advance) -> PushEffects:
    """Add each vector at every position that counts, and measure. The clean run stands beside each
    group of pushes, so that a difference is free of the noise of another batch shape."""
    found: list[_Pushed] = []
    for text, profile in zip(read.texts, read.profiles, strict=True):
        size = max(1, _rows_at_once(read.stack, text.shape) - 1)
        parts = [_push(read.stack, text, profile, part) for part in vectors.split(size)]
        moved, kl = (torch.cat([part[n] for part in parts]) for n in (1, 2))
        found.append(_Pushed(parts[0].value, moved, kl))
        advance(len(vectors))
    concept, kl = torch.zeros(2, len(vectors), read.n_prompts, dtype=torch.float64)
    shares = shares_of(read.texts, torch.stack([one.value for one in found]))
    for (prompt, side), places in sides_of(read.texts).items():
        grown = torch.stack([found[i].moved + shares[i].log() for i in places])
        concept[:, prompt] += side * grown.logsumexp(0)
    n_texts = torch.zeros(read.n_prompts, dtype=torch.float64)
    for text, one in zip(read.texts, found, strict=True):
        kl[:, text.prompt] += one.kl
        n_texts[text.prompt] += 1
    return PushEffects(concept, kl / n_texts)


def _push(
    stack: Stack, text: ForcedText, profile: Tensor, vectors: Float[Tensor, "n d_out"]
) -> _Pushed:
    """Change of the text's value, and KL, of each push."""
    logprobs = _pushed_logprobs(stack, text, profile, vectors)
    values, clean = text.value(logprobs).cpu(), logprobs[:1]
    kl = (clean.exp() * (clean - logprobs[1:])).sum(-1).clamp(min=0).mean(1)
    return _Pushed(values[0], values[1:] - values[0], kl.cpu())


def _pushed_logprobs(
    stack: Stack, text: ForcedText, profile: Tensor, vectors: Float[Tensor, "n d_out"]
) -> Float[Tensor, "n_and_clean n_out d_vocab"]:
    """The predictions that are read: as they are, then with each vector added."""
    added = torch.cat([torch.zeros_like(vectors[:1]), vectors])
    changes = added[:, None, :] * profile.to(added)[None, :, None]

    def at_site(i: int, read: Tensor, written: Tensor) -> Tensor:
        rows = written.expand(len(changes), *written.shape[1:])
        return add_at_site(rows, changes.to(written.device))

    ids, n_out = stack.model.batch(text.ids), text.n_out
    variants = Variants(len(changes), at_site)
    logits = forward_variants(stack, ids, variants, last=n_out)[:, -n_out:]
    return wide(logits).log_softmax(-1)


def next_probabilities(
    read: ReadTexts, vectors: Float[Tensor, "n d_out"]
) -> Float64[Tensor, "n_and_clean d_vocab"]:
    """The probability of each token after the texts, on average: as it is, then with each vector
    added at every position that counts."""
    total = torch.zeros(1 + len(vectors), read.stack.model.d_vocab, dtype=torch.float64)
    for text, profile in zip(read.texts, read.profiles, strict=True):
        size = max(1, _rows_at_once(read.stack, text.shape) - 1)
        parts = [_pushed_logprobs(read.stack, text, profile, part) for part in vectors.split(size)]
        rows = [parts[0][:1], *(part[1:] for part in parts)]
        total += torch.cat(rows)[:, -1].exp().cpu().double()
    return total / len(read.texts)


def at_kl(strengths: Sequence[float], concept: Tensor, kl: Tensor, *, target: float) -> AtKL:
    """The effect where the mean KL is `target`: between the pushes of one vector at several
    strengths (`concept` and `kl` are [n_strengths, n_prompts]), linear in the square root of the
    KL, which grows as the strength does; at most half as far again beyond the strongest."""
    order = sorted(range(len(strengths)), key=lambda n: strengths[n])
    points = [(0.0, 0.0, torch.zeros_like(concept[0]))]
    points += [(strengths[n], sqrt(float(kl[n].mean())), concept[n]) for n in order]
    wanted = sqrt(target)
    for (s0, root0, effects0), (s1, root1, effects1) in pairwise(points):
        if root1 >= wanted:
            share = (wanted - root0) / (root1 - root0)
            return AtKL(effects0 + share * (effects1 - effects0), s0 + share * (s1 - s0))
    strength, root, effects = points[-1]
    factor = min(wanted / root, MOST_BEYOND) if root else 1.0
    return AtKL(effects * factor, strength * factor)
