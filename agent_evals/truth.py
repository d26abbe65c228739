"""The numbers again, without saescope: transformers' own model, PyTorch hooks, and the SAE's
tensors in plain arithmetic."""

import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

Change = Callable[[Tensor], Tensor]


class Bench(NamedTuple):
    """A model with an SAE on the output of one of its layers."""

    model: Any
    tokenizer: Any
    layer: int
    weights: dict[str, Tensor]
    k: int
    bos: bool
    rescaled: bool
    """Activations are in units of decoder rows of norm 1."""

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self.tokenizer.bos_token_id, *ids] if self.bos else ids

    def token(self, text: str) -> int:
        """Of `#id`, or of text that is one token."""
        if text.startswith("#"):
            return int(text[1:])
        (one,) = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return one

    def run(self, ids: list[int], change: Change = lambda x: x) -> tuple[Tensor, Tensor]:
        """What the layer gave out, and the logits after `change` of it."""
        seen: list[Tensor] = []

        def hook(module: Any, inputs: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            seen.append(x[0].clone())
            changed = change(x[0].clone())[None]
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        with ExitStack() as stack, torch.no_grad():
            stack.callback(self.model.model.layers[self.layer].register_forward_hook(hook).remove)
            logits = self.model(torch.tensor([ids])).logits[0]
        return seen[0], logits

    def encode(self, x: Tensor) -> Tensor:
        """[n_pos, d_sae]: of each position the k largest, if above zero (sae-lens's TopKSAE,
        rescale_acts_by_decoder_norm)."""
        hidden = (x - self.weights["b_dec"]) @ self.weights["W_enc"] + self.weights["b_enc"]
        hidden = hidden * self.norms
        acts = torch.zeros_like(hidden)
        for pos, row in enumerate(hidden):
            for feature in row.argsort(descending=True)[: self.k].tolist():
                acts[pos, feature] = max(row[feature].item(), 0.0)
        return acts

    @property
    def directions(self) -> Tensor:
        """[d_sae, d_in]: what one unit of each feature writes."""
        return self.weights["W_dec"] / self.norms[:, None]

    @property
    def norms(self) -> Tensor:
        W_dec = self.weights["W_dec"]
        return W_dec.norm(dim=-1) if self.rescaled else torch.ones(len(W_dec))


@cache
def bench(sae: str, model: str) -> Bench:
    config = json.loads((Path(sae) / "cfg.json").read_text(encoding="utf-8"))
    weights = {
        name: tensor.float()
        for name, tensor in load_file(Path(sae) / "sae_weights.safetensors").items()
    }
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    layer = int(config["metadata"]["hook_name"].split(".")[1])
    return Bench(
        loaded,
        AutoTokenizer.from_pretrained(model),
        layer,
        weights,
        k=int(config["k"]),
        bos=bool(config["metadata"].get("prepend_bos")),
        rescaled=bool(config.get("rescale_acts_by_decoder_norm")),
    )


def recompute(name: str, arguments: dict[str, Any]) -> float:
    """A function of this module by its name."""
    said = dict(arguments)
    if name in OF_NEURONS:
        return OF_NEURONS[name](**said)
    on = bench(said.pop("sae"), said.pop("model"))
    return float(FUNCTIONS[name](on, **said))


def _acts(on: Bench, text: str) -> Tensor:
    """Without position 0."""
    x, _ = on.run(on.ids(text))
    return on.encode(x)[1:]


def strongest(on: Bench, text: str) -> float:
    """The feature with the highest activation."""
    return _acts(on, text).max(dim=0).values.argmax().item()


def max_activation(on: Bench, text: str, feature: int) -> float:
    return _acts(on, text)[:, feature].max().item()


def activation(on: Bench, text: str, feature: int, pos: int) -> float:
    return _acts(on, text)[pos - 1, feature].item()


def n_firing(on: Bench, text: str) -> float:
    """How many different features fire."""
    return int((_acts(on, text) > 0).any(dim=0).sum())


def explained_variance(on: Bench, text: str) -> float:
    x = on.run(on.ids(text))[0]
    rebuilt = (on.encode(x) @ on.directions + on.weights["b_dec"])[1:]
    x = x[1:]
    return 1 - ((x - rebuilt) ** 2).sum().item() / ((x - x.mean(dim=0)) ** 2).sum().item()


def contrast(on: Bench, texts: Sequence[str], against: Sequence[str], feature: int) -> float:
    """The share of pairs of texts, one of each side, in which that of `texts` has the larger
    largest activation; ties half."""
    here, there = (
        [_acts(on, text)[:, feature].max().item() for text in side] for side in (texts, against)
    )
    return mean((a > b) + (a == b) / 2 for a in here for b in there)


def effect(
    on: Bench,
    prompt: str,
    edits: list[dict[str, Any]],
    target: str,
    against: str = "",
    sign: int = 1,
) -> float:
    """How far an edit moves the logit of `target` (less that of `against`) after the prompt;
    sign=-1: clean minus edited."""
    ids = on.ids(prompt)

    def change(x: Tensor) -> Tensor:
        moved = x.clone()
        acts = on.encode(x)
        for edit in edits:
            for pos in edit.get("positions") or range(1, len(ids)):
                before = acts[pos, edit["feature"]].item()
                after = {
                    "ablate": 0.0,
                    "clamp": edit.get("to", 0.0),
                    "add": before + edit.get("to", 0.0),
                }[edit["mode"]]
                moved[pos] += (after - before) * on.directions[edit["feature"]]
        return moved

    clean, edited = on.run(ids)[1][-1], on.run(ids, change)[1][-1]
    shift = edited - clean
    less = shift[on.token(against)].item() if against else 0.0
    return sign * (shift[on.token(target)].item() - less)


def probability(on: Bench, prompt: str, target: str) -> float:
    return on.run(on.ids(prompt))[1][-1].softmax(dim=-1)[on.token(target)].item()


def n_features(on: Bench) -> float:
    return on.weights["W_dec"].shape[0]


FUNCTIONS: dict[str, Callable[..., float]] = {
    name: value
    for name, value in list(globals().items())
    if inspect.isfunction(value)
    and next(iter(inspect.signature(value).parameters), "") == "on"
    and not name.startswith("_")
}


# A model whose features are its neurons: no SAE is needed to know what they do.


@cache
def _gpt2(model: str) -> tuple[Any, Any]:
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return loaded, AutoTokenizer.from_pretrained(model)


def _last(model: str, prompt: str, *, without: tuple[int, int, int] | None = None) -> Tensor:
    """The logits after the prompt, with a neuron (layer, index, position) silent."""
    loaded, tokenizer = _gpt2(model)

    def silence(module: Any, inputs: Any, output: Tensor) -> Tensor:
        assert without
        left = output.clone()
        left[:, without[2], without[1]] = 0
        return left

    with ExitStack() as stack, torch.no_grad():
        if without:
            act = loaded.transformer.h[without[0]].mlp.act
            stack.callback(act.register_forward_hook(silence).remove)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return loaded(torch.tensor([ids])).logits[0, -1]


def neuron_effect(model: str, prompt: str, neuron: list[int], target: int, against: int) -> float:
    """What is lost of logit(target) - logit(against) without a neuron [layer, index, position]."""
    layer, index, pos = neuron
    shift = _last(model, prompt) - _last(model, prompt, without=(layer, index, pos))
    return (shift[target] - shift[against]).item()


def unseen_share(model: str, prompt: str, neuron: list[int], target: int, against: int) -> float:
    """The share of the difference of two logits that one neuron of the last position writes, of
    all that is written there, with the final norm as it is in this run."""
    loaded, tokenizer = _gpt2(model)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    seen: dict[str, Tensor] = {}
    parts = loaded.transformer

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs: seen.__setitem__(name, inputs[0][0, -1].clone())

    with ExitStack() as stack, torch.no_grad():
        for n, block in enumerate(parts.h):
            stack.callback(block.mlp.c_proj.register_forward_pre_hook(keep(str(n))).remove)
        stack.callback(parts.ln_f.register_forward_pre_hook(keep("last")).remove)
        loaded(torch.tensor([ids]))
        row = loaded.lm_head.weight[target] - loaded.lm_head.weight[against]
        x = seen["last"]
        row = parts.ln_f.weight * row
        row = (row - row.mean()) / (x.var(unbiased=False) + parts.ln_f.eps).sqrt()
        token = (parts.wte.weight[ids[-1]] @ row).abs()
        written = [seen[str(n)] * (each.mlp.c_proj.weight @ row) for n, each in enumerate(parts.h)]
        whole = token + sum(each.abs().sum() for each in written)
        return (written[neuron[0]][neuron[1]].abs() / whole).item()


OF_NEURONS: dict[str, Callable[..., float]] = {
    "neuron_effect": neuron_effect,
    "unseen_share": unseen_share,
}
