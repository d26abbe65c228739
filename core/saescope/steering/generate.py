"""Steered generation: baseline, steered samples and random-feature controls decoded side by side in
one batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.finite import finite_together
from saescope.hooks import edit_activations
from saescope.metrics import kl_divergence, log_mass
from saescope.models import LanguageModel, Tokens
from saescope.precision import wide
from saescope.progress import NOBODY, Advance
from saescope.sinks import find_sinks, typical_norm
from saescope.splice import (
    add_at_site,
    chained_edits,
    read_hook,
    site_hooks,
    site_record,
    write_hook,
)
from saescope.spread import Later
from saescope.stack import Stack
from saescope.steering.conditions import Conditions
from saescope.steering.edits import EditPlan, written_by
from saescope.steering.prepare import Plans


@dataclass(frozen=True, slots=True)
class Generation:
    """Tokens that one row produced, and how far its distribution was from the unsteered model's on
    the same prefix."""

    ids: list[int]
    kl: float | None
    perplexity: float | None
    concept_logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen: greedily at temperature 0, else at random."""

    max_new_tokens: int
    temperature: float = 0.0
    seeds: Sequence[int]
    """The seeds, one for each row."""
    use_cache: bool = True
    advance: Advance = NOBODY
    """Told as `n_steps` counts."""


Passes = Sequence[tuple[int, int]]
"""The first position, and the one after the last, of each forward pass over a text."""


@dataclass(slots=True)
class Cursor:
    """How texts are read, which positions the forward pass under way covers, and which of them are
    edited."""

    mask: Bool[Tensor, "n_rows n_pos"]
    passes: Passes = ()
    start: int = 0
    advance: Advance = NOBODY
    """Told of each pass that more of the text follows."""


def passes_of(stack: Stack, n_tokens: int) -> Passes:
    """How a text of so many tokens is read while activations are edited, in one pass or in chunks;
    asked before they are. An SAE that looks back at earlier positions needs all in one pass."""
    if any(sae.sequential for sae in stack.saes):
        return [(0, n_tokens)]
    return stack.model.passes(n_tokens)


def read_logits(
    model: LanguageModel,
    ids: Int[Tensor, "batch n_pos"],
    cursor: Cursor,
    *,
    last: int,
    past: Any = None,
    use_cache: bool = False,
) -> tuple[Float[Tensor, "batch n_out d_vocab"], Any]:
    """Logits of the `last` positions and the cache, by the passes of the cursor, which goes along
    for the edits."""
    logits = list[Tensor]()
    for first, end in cursor.passes:
        cursor.start = first
        n_out = end - max(first, ids.shape[1] - last)
        here, past = model.forward(
            ids[:, first:end],
            past=past,
            use_cache=use_cache or len(cursor.passes) > 1,
            last=max(n_out, 1),  # 0 would mean all
        )
        if n_out > 0:
            logits.append(here[:, -n_out:])
        if end < ids.shape[1]:
            cursor.advance(1)
    return torch.cat(logits, dim=1), past


def n_steps(stack: Stack, prompt: Tokens, n_rows: int, max_new_tokens: int) -> int:
    """What `generate` advances by: a chunk of the prompt that another follows, a token that all
    rows have, a row that is measured."""
    return len(passes_of(stack, len(prompt))) - 1 + max_new_tokens + n_rows


def generate(
    stack: Stack,
    prompt: Int[Tensor, " n_prompt"],
    plans: Sequence[Plans],
    *,
    sampling: Sampling,
    concept: Sequence[int],
) -> list[Generation]:
    """One row for each run's plans (none: unsteered), each sampled with its own seed, and what is
    measured along it."""
    rows = write(stack, prompt, plans, sampling=sampling)
    found: list[Generation] = []
    for row, each in zip(rows, plans, strict=True):
        found.append(_measure(stack, prompt, row, each, concept))
        sampling.advance(1)
    return found


def write(
    stack: Stack,
    prompt: Int[Tensor, " n_prompt"],
    plans: Sequence[Plans],
    *,
    sampling: Sampling,
) -> list[list[int]]:
    """The tokens of one row for each run's plans."""
    model = stack.model
    ids = model.batch(prompt).repeat(len(plans), 1)
    stop, rngs = model.end_ids, [torch.Generator().manual_seed(seed) for seed in sampling.seeds]
    n_new = min(sampling.max_new_tokens, model.n_ctx - len(prompt))
    use_cache = (
        sampling.use_cache
        and not any(sae.sequential for sae in stack.saes)
        and model.caches_up_to(len(prompt) + n_new)
    )
    passes = passes_of(stack, len(prompt)) if use_cache else [(0, len(prompt))]
    cursor = Cursor(torch.ones_like(ids, dtype=torch.bool), passes, advance=sampling.advance)
    done, past = torch.zeros(len(plans), dtype=torch.bool, device=ids.device), None
    with steered_by(stack, plans, cursor):
        for _ in range(n_new):
            with finite_together() as checks:
                logits, past = read_logits(
                    model, ids, cursor, last=1, past=past, use_cache=use_cache
                )
                chosen = _choose(logits[:, -1], sampling.temperature, rngs)
                done |= torch.isin(chosen, stop)
                (all_done,) = checks.ask(done.all())
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            special = torch.isin(chosen, model.tokenizer.special_ids.to(chosen))
            cursor.mask = torch.cat([cursor.mask, ~special[:, None]], dim=1)
            cursor.passes = [(ids.shape[1] - 1 if use_cache else 0, ids.shape[1])]
            sampling.advance(1)
            if all_done:
                break
    sampling.advance(sampling.max_new_tokens - (ids.shape[1] - len(prompt)))
    return [_until_stop(row, stop) for row in ids[:, len(prompt) :]]


def steered_by(
    stack: Stack, plans: Sequence[Plans], cursor: Cursor
) -> AbstractContextManager[None]:
    """Edit each row by its plans while the block runs; what one SAE's plan changes, the SAEs above
    see. Conditions are read row by row, before the edits at their hooks."""
    conditions, later = Conditions(stack), Later()
    for hook_name in (name for sae in stack.saes for name in site_hooks(sae)):
        typical_norm(stack.model, hook_name)  # before the hooks below run

    def edit(i: int, read: Tensor, written: Tensor) -> Tensor:
        sae = stack.saes[i]
        sinks = find_sinks(stack.model, {read_hook(sae): read, write_hook(sae): written})
        rows = [written[row] for row in range(len(plans))]
        for row, of_row in enumerate(plans):
            if i in of_row:
                plan = conditions.narrowed(_window(of_row[i], cursor, row, sinks[row]), row)
                own = slice(row, row + 1)
                site = site_record(stack.model, sae, read[own], written[own])
                change = later.here(written_by(sae, site, plan), i, row)
                rows[row] = add_at_site(written[own], change)[0]
        return torch.stack(rows)

    edits = chained_edits(stack.saes, edit, later.hooks(stack.saes))
    return edit_activations(stack.model, conditions.watched(plans, edits) if any(plans) else {})


def _window(plan: EditPlan, cursor: Cursor, row: int, sinks: Bool[Tensor, " n_new"]) -> EditPlan:
    """The plan for the positions of this forward pass: the prompt's own mask, then every generated
    token that is not special, nor a sink before this edit."""
    n_prompt, end = plan.masks.shape[1], cursor.start + len(sinks)
    generated = cursor.mask[row, n_prompt:]
    masks = torch.cat([plan.masks, generated.expand(len(plan.masks), -1)], dim=1)
    masks = masks[:, cursor.start : end].clone()
    n_old = min(max(n_prompt - cursor.start, 0), len(sinks))
    masks[:, n_old:] &= ~sinks[n_old:]
    return replace(plan, masks=masks)


def _choose(
    logits: Float[Tensor, "n_rows d_vocab"], temperature: float, rngs: Sequence[torch.Generator]
) -> Int[Tensor, " n_rows"]:
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits.double() / temperature).softmax(-1).cpu()
    picks = [torch.multinomial(row, 1, generator=rng) for row, rng in zip(probs, rngs, strict=True)]
    return torch.cat(picks).to(logits.device)


def _until_stop(row: Int[Tensor, " n"], stop: Int[Tensor, " m"]) -> list[int]:
    ends = torch.isin(row, stop).nonzero()[:, 0]
    return row[: int(ends[0]) if len(ends) else None].tolist()


def repetition_of(row: Sequence[int]) -> float:
    """1 - distinct / total 3-grams."""
    grams = list(zip(row, row[1:], row[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _measure(
    stack: Stack,
    prompt: Int[Tensor, " n_prompt"],
    row: list[int],
    plans: Plans,
    concept: Sequence[int],
) -> Generation:
    """Perplexity of the continuation under the unsteered model; over its positions the mean
    KL(clean || steered), and by how much steering changes the log of the concept's probability."""
    if not row:
        return Generation(row, None, None, None)
    model = stack.model
    ids = model.batch(torch.cat([prompt.cpu(), torch.tensor(row)]))
    mask = ~torch.isin(ids, model.tokenizer.special_ids.to(ids))
    cursor = Cursor(mask, passes_of(stack, ids.shape[1]))
    clean = read_logits(model, ids, cursor, last=len(row) + 1)[0][0, :-1]
    losses = torch.nn.functional.cross_entropy(
        known := wide(clean), ids[0, len(prompt) :].to(known.device), reduction="none"
    )
    perplexity = float(losses.mean().exp())
    if not plans:
        return Generation(row, 0.0, perplexity, 0.0 if concept else None)
    with steered_by(stack, [plans], cursor):
        steered = read_logits(model, ids, cursor, last=len(row) + 1)[0][0, :-1]
    kl = float(kl_divergence(clean, steered).mean())
    gain = float((log_mass(steered, concept) - log_mass(clean, concept)).mean())
    return Generation(row, kl, perplexity, gain if concept else None)
