"""What the tools that run the model take, in plain passes of it: an attribution, a steered text and
an evaluation, with the embedded model and SAE.

    PYTHONPATH=core python benchmarks/passes.py [--rounds 3] [--tokens 20000]

A plain pass is transformers alone, on the same tokens, one thread; both sides take turns. An
attribution has 128 tokens, k 10 and 19 controls, and is beside one forward and backward pass. A
steered text has a baseline, a steered row and 19 controls, with all that is measured of them, and
is beside `generate` of as many rows. An evaluation is beside the passes that it cannot do without:
to the site, and from there with each of what stands in.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import saescope as ss
from saescope.activations.text import EMBEDDED_CORPUS
from saescope.embedded import model_dir
from saescope.models import LanguageModel, Tokens
from saescope.saes import SAE

LAYER, N_PROMPT, N_NEW, N_CONTROLS = 14, 128, 48, 19
PROMPT = "My sister lost her keys and called our mother because"
FEATURE = 4432
STAND_INS = 6
"""What an evaluation puts at the site beside nothing: the SAE, a mean, zero at counted positions,
zero everywhere, a random SAE, a PCA."""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loaded() -> tuple[LanguageModel, SAE, Any]:
    """Model and SAE, and the model in plain transformers."""
    hf: Any = AutoModelForCausalLM.from_pretrained(model_dir(), dtype=torch.float32).eval()
    return ss.load_model(device="cpu"), ss.load_sae(device="cpu"), hf.requires_grad_(False)


def text_tokens(model: LanguageModel, n: int) -> Tokens:
    """The first tokens of the text that ships."""
    import lzma

    text = lzma.decompress(EMBEDDED_CORPUS.read_bytes()).decode()
    return model.tokenize(text[: 12 * n], limit=n)


def attribution(rounds: int) -> list[float]:
    """An attribution with its checks / one forward and backward pass."""
    model, sae, hf = loaded()
    tokens = text_tokens(model, N_PROMPT)

    def plain() -> None:
        x = hf.get_input_embeddings()(tokens.ids[None]).detach().requires_grad_()
        logprobs = hf(inputs_embeds=x).logits[0, -1].log_softmax(-1)
        torch.autograd.grad(logprobs.max(), [x])

    def ours() -> None:
        ss.attribute(model, sae, tokens, k=10, n_controls=19)

    ours()
    plain()
    return [seconds(ours) / seconds(plain) for _ in range(rounds)]


def steering(rounds: int) -> list[float]:
    """Tokens a second of each row that is steered / of each that transformers generates."""
    model, sae, hf = loaded()
    tokens = model.tokenize(PROMPT)
    edits = [ss.FeatureEdit(FEATURE, strength=1.0)]
    reference = ss.check_sae(model, sae).acts

    def plain() -> None:
        rows = tokens.ids.repeat(2 + N_CONTROLS, 1)
        hf.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            min_new_tokens=N_NEW,
            max_new_tokens=N_NEW,
            do_sample=False,
        )

    def ours() -> None:
        made = ss.steer(
            model, sae, tokens, edits, reference=reference, max_new_tokens=N_NEW,
            n_controls=N_CONTROLS,
        )  # fmt: skip
        assert len([made.baseline, *made.steered, *made.controls]) == 2 + N_CONTROLS

    ours()
    plain()
    return [seconds(plain) / seconds(ours) for _ in range(rounds)]


def evaluation(rounds: int, n_tokens: int) -> list[float]:
    """An evaluation / the passes that it needs."""
    model, sae, hf = loaded()
    context = sae.cfg.metadata.context_size or 256
    ids = text_tokens(model, context).ids.expand(n_tokens // context, -1)  # any text costs the same
    below, above = hf.model.layers[: LAYER + 1], hf.model.layers[LAYER + 1 :]

    def through(layers: Any, rows: torch.Tensor) -> None:
        hf.model.layers = layers
        with torch.no_grad():
            hf(rows) if layers is above else hf.model(rows)

    def plain() -> None:
        for row in ids.split(1):
            through(below, row)  # first reading: to the site
            through(below, row)  # second: the same again, then a row for all that stands in
            through(above, row.expand(1 + STAND_INS, -1))

    def ours() -> None:
        ss.evaluate(model, sae, n_tokens=n_tokens)

    return [seconds(ours) / seconds(plain) for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=20_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, found in (
        ("attribution / forward and backward", attribution(asked.rounds)),
        ("tokens a second, steered / plain", steering(asked.rounds)),
        ("evaluation / passes", evaluation(asked.rounds, asked.tokens)),
    ):
        print(f"{name} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
