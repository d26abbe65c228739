"""Measurements behind the players' backs, in plain transformers and PyTorch: what a feature fires
on, and what adding it does to texts."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent_evals.scientist.scores import TOP, is_degenerate
from agent_evals.scientist.wish import Ground
from saescope import load_sae
from saescope.saes import SAE


class Written(NamedTuple):
    """Prompts with what the model writes after them when nobody steers, padded on both sides."""

    ids: Tensor
    mask: Tensor
    predicts: Tensor
    """[n_prompts, n_new]: the places of the continuation that hold a token."""
    logprobs: Tensor
    """[n_prompts, n_new, d_vocab] before each of its tokens."""


class Rated(NamedTuple):
    """One steered prompt."""

    rise: float
    """Nats of the concept's tokens together, over the text as it is without steering."""
    kl: float
    degenerate: bool


class Writer:
    """A model to whose layer a vector is added while it writes."""

    def __init__(self, model: Path | str, layer: int, *, chat: bool = False, n_new: int = 24):
        hf: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        self.hf = hf.cuda() if torch.cuda.is_available() else hf.float()
        self.hf.requires_grad_(False)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.layer, self.chat, self.n_new = layer, chat, n_new
        self._written: dict[tuple[str, ...], Written] = {}

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @cached_property
    def special(self) -> set[int]:
        return set(self.tokenizer.all_special_ids)

    def token(self, text: str) -> int:
        (one,) = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return one

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Of those texts that are one token; cues of several are passed over.

        Raises:
            ValueError: there is none.
        """
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if not any(len(each) == 1 for each in ids):
            raise ValueError(f"none of {', '.join(map(repr, texts))} is one token of the model")
        return [each[0] for each in ids if len(each) == 1]

    def residuals(self, texts: Sequence[str]) -> list[Tensor]:
        """Of each text [n_tokens, d_in], without position 0 and special tokens."""
        found: list[Tensor] = []
        for start in range(0, len(texts), 32):
            rows = [self.tokenizer(text)["input_ids"] for text in texts[start : start + 32]]
            ids, mask = self.padded(rows, left=False)
            seen: list[Tensor] = []
            with torch.no_grad(), self.at_layer(seen.append):
                self.hf.model(input_ids=ids, attention_mask=mask)
            for row, x in zip(rows, seen[0], strict=True):
                kept = [i for i, token in enumerate(row) if i and token not in self.special]
                found.append(x[kept].float())
        return found

    def random_direction(self) -> Tensor:
        """A Gaussian one of norm 1, of seed 0."""
        noise = torch.randn(self.hf.config.hidden_size, generator=torch.Generator().manual_seed(0))
        return (noise / noise.norm()).to(self.device)

    def rate(
        self, vectors: Sequence[Tensor], prompts: Sequence[str], tokens: Sequence[int]
    ) -> list[list[Rated]]:
        """What adding each vector at every position does, prompt by prompt; all in one batch."""
        n, each = len(prompts), self._each(vectors, len(prompts))
        rises, kls = self._forced(each, prompts, tokens)
        texts = self._generate([*prompts] * len(vectors), each)
        rated = [
            Rated(rise, kl, is_degenerate(text))
            for rise, kl, text in zip(rises, kls, texts, strict=True)
        ]
        return [rated[start : start + n] for start in range(0, len(rated), n)]

    def rises(
        self, vectors: Sequence[Tensor], prompts: Sequence[str], tokens: Sequence[int]
    ) -> list[list[float]]:
        """For each vector and prompt how far the tokens rise together, over the text as it is
        without steering."""
        n = len(prompts)
        rises, _ = self._forced(self._each(vectors, n), prompts, tokens)
        return [rises[start : start + n] for start in range(0, len(rises), n)]

    def _each(self, vectors: Sequence[Tensor], n: int) -> Tensor:
        return torch.stack([*vectors]).to(self.device).repeat_interleave(n, 0)[:, None]

    def _forced(
        self, each: Tensor, prompts: Sequence[str], tokens: Sequence[int]
    ) -> tuple[list[float], list[float]]:
        written = self.written(prompts)
        n = len(each) // len(prompts)
        many = Written(*(part.repeat(n, *[1] * (part.ndim - 1)) for part in written))
        changed = self._logprobs(many, each)
        moved = log_mass(changed, tokens) - log_mass(many.logprobs, tokens)
        kl = (many.logprobs.exp() * (many.logprobs - changed)).sum(-1)
        counts = many.predicts.sum(1).clamp_min(1)
        rises, kls = ((part * many.predicts).sum(1) / counts for part in (moved, kl))
        return rises.tolist(), kls.tolist()

    def written(self, prompts: Sequence[str]) -> Written:
        key = tuple(prompts)
        if key not in self._written:
            texts = self._generate(prompts, None)
            ids, mask = self.padded([self.ids_of(prompt) for prompt in prompts], left=True)
            more, more_mask = self.padded(texts, left=False)
            both = Written(
                torch.cat([ids, more], 1), torch.cat([mask, more_mask], 1), more_mask, more
            )
            self._written[key] = both._replace(logprobs=self._logprobs(both, None))
        return self._written[key]

    def ids_of(self, prompt: str) -> list[int]:
        if self.chat and self.tokenizer.chat_template:
            said = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(
                said, tokenize=False, add_generation_prompt=True
            )
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.tokenizer(prompt)["input_ids"]

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        n = max(len(row) for row in rows)
        joined: list[list[int]] = []
        ones: list[list[int]] = []
        for row in rows:
            pad = [0] * (n - len(row))
            joined.append([*pad, *row] if left else [*row, *pad])
            ones.append([*pad, *[1] * len(row)] if left else [*[1] * len(row), *pad])
        return torch.tensor(joined, device=self.device), torch.tensor(ones, device=self.device)

    def _generate(self, prompts: Sequence[str], each: Tensor | None) -> list[list[int]]:
        """Greedy continuations, without what ends them."""
        ids, mask = self.padded([self.ids_of(prompt) for prompt in prompts], left=True)
        with torch.no_grad(), self._adding(each):
            out = self.hf.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.n_new,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
            )
        texts: list[list[int]] = []
        for row in out[:, ids.shape[1] :].tolist():
            ends = [i for i, token in enumerate(row) if token in self.special]
            texts.append(row[: ends[0]] if ends else row)
        return texts

    def _logprobs(self, written: Written, each: Tensor | None) -> Tensor:
        places = (written.mask.cumsum(1) - 1).clamp_min(0)
        n_new = written.predicts.shape[1]
        with torch.no_grad(), self._adding(each):
            logits = self.hf(
                input_ids=written.ids,
                attention_mask=written.mask,
                position_ids=places,
                logits_to_keep=n_new + 1,
            ).logits
        return logits[:, :-1].float().log_softmax(-1)

    def _adding(self, each: Tensor | None) -> ExitStack:
        def add(x: Tensor) -> Tensor:
            assert each is not None
            return x + each.to(x)

        return ExitStack() if each is None else self.at_layer(add)

    def at_layer(self, change: Any) -> ExitStack:
        """A hook on the layer's output; what `change` returns, if it is a tensor, takes its
        place."""

        def hook(module: Any, inputs: Any, output: Any) -> Any:
            is_tuple = isinstance(output, tuple)
            changed = change(output[0] if is_tuple else output)
            if changed is None:
                return None
            return (changed, *output[1:]) if is_tuple else changed

        stack = ExitStack()
        stack.callback(self.hf.model.layers[self.layer].register_forward_hook(hook).remove)
        return stack


class Lab(Writer):
    """A model with an SAE on the output of one of its layers."""

    def __init__(self, model: Path | str, sae: SAE, *, chat: bool = False, n_new: int = 24):
        super().__init__(
            model, int(sae.cfg.metadata.hook_name.split(".")[1]), chat=chat, n_new=n_new
        )
        self.sae = sae.to(self.device)

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """[n_texts, d_sae]: the mean of each feature's three largest activations in each text."""
        rows: list[Tensor] = []
        for x in self.residuals(texts):
            acts = self.sae.encode(x.to(self.sae.dtype)).float()
            rows.append(acts.topk(min(TOP, len(acts)), dim=0).values.mean(0))
        return torch.stack(rows).cpu()

    def direction(self, feature: int) -> Tensor:
        """What the feature writes, with norm 1."""
        row = self.sae.W_dec[feature].float()
        return row / row.norm()


def lab_of(ground: Ground) -> Lab:
    """A ground's model and SAE, from here or from the hub."""
    if ground.release:
        sae = load_sae(release=ground.release, sae_id=str(ground.sae))
    else:
        sae = load_sae(ground.sae)
    return Lab(ground.model, sae, chat=ground.chat, n_new=ground.n_new_tokens)


def log_mass(logprobs: Tensor, tokens: Sequence[int]) -> Tensor:
    return logprobs[..., list(tokens)].logsumexp(-1)
