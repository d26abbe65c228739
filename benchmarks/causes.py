"""What it costs to search all features of the embedded SAE for those that cause a concept, in
passes of the model and beside one plain forward and backward pass.

    python benchmarks/causes.py

Prompts are those that ship. Seconds are CPU seconds on one thread, the least of a few; their ratio
holds on a busy machine too.
"""

import platform
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import saescope as ss
from saescope.embedded import model_dir
from saescope.hooks import edit_activations
from saescope.models import LanguageModel, Tokens
from saescope.search.bench import CausalBench
from saescope.search.concept import ConceptTexts
from saescope.search.prompts import prompts_or_neutral

CONCEPT = [" sea", " ocean"]


@contextmanager
def counted(model: LanguageModel) -> Generator[Counter[str]]:
    """How many rows enter the model, with gradients and without."""
    rows: Counter[str] = Counter()

    def see(x: torch.Tensor) -> torch.Tensor:
        rows["with gradients" if torch.is_grad_enabled() else "without"] += len(x)
        return x

    with edit_activations(model, {"blocks.0.hook_resid_pre": see}):
        yield rows


def least(function: Callable[[], Any], n: int = 3) -> float:
    taken: list[float] = []
    for _ in range(n):
        began = time.process_time()
        function()
        taken.append(time.process_time() - began)
    return min(taken)


def plain_pass(hf: Any, prompts: list[Tokens], tokens: list[int]) -> None:
    """Forward and back for each prompt, in plain transformers, to the embeddings."""
    for prompt in prompts:
        x = hf.get_input_embeddings()(prompt.ids[None]).detach().requires_grad_()
        logprobs = hf(inputs_embeds=x).logits[0, -1].log_softmax(-1)
        torch.autograd.grad(logprobs[tokens].logsumexp(-1), [x])


def main() -> None:
    torch.set_num_threads(1)
    model, sae = ss.load_model(), ss.load_sae()
    hf: Any = AutoModelForCausalLM.from_pretrained(model_dir(), dtype=torch.float32).eval()
    hf.requires_grad_(False)
    concept = ConceptTexts.of(model, CONCEPT, over=(), metric="logprob")
    prompts = prompts_or_neutral(model, sae, (), sentences=False)
    tokens = [model.single_token(text) for text in CONCEPT]

    def screened() -> CausalBench:
        bench = CausalBench.of(model, sae, concept, (), fired=(None, None), draw=(1, 0))
        assert len(bench.screen.typical) == sae.cfg.d_sae
        return bench

    n, plain = len(prompts), least(lambda: plain_pass(hf, prompts, tokens))
    print(f"{date.today()}, {platform.processor() or platform.machine()}, one thread")
    print(f"{sae.cfg.d_sae} features, {n} prompts; a plain pass of all prompts {plain:.2f} s\n")
    print("| what | passes a prompt | CPU s | plain passes |\n|---|---|---|---|")
    with counted(model) as rows:
        screened()
    screen = least(screened, n=2)
    told = ", ".join(f"{count / n:g} {kind}" for kind, count in rows.items())
    print(f"| the screen of all features | {told} | {screen:.2f} | {screen / plain:.1f} |")
    assert rows["with gradients"] <= 3 * n
    whole = least(lambda: ss.find_causes(model, sae, CONCEPT), n=1)
    print(f"| with 20 pushed, 38 controls | - | {whole:.2f} | {whole / plain:.1f} |")


if __name__ == "__main__":
    main()
