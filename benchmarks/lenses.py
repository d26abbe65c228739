"""What a Jacobian lens costs: one prompt of a fit, here and by transformer-lens, and one reading
through it.

python benchmarks/lenses.py [model folder; default: the embedded model] [tokens of the prompt]
    [lowest layer]

Both fits read the same prompt, by turns, in one process; their matrices are compared. Times are CPU
time of one thread.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from transformer_lens.tools.analysis.jacobian_lens import JacobianLens

from saescope.lens import fit_lens, read_lens
from saescope.models import LanguageModel, load_model
from saescope.models.analysis import fit_jacobian

T = TypeVar("T")
TEXT = "The capital of France is the city of Paris, and the capital of Italy is the city of"
LONG = (
    "Rain fell on the hills all night, and in the morning the river stood high between its banks. "
    "The farmer took his two dogs and went up to see whether the bridge had held, for on the other "
    "side were his sheep, and nobody else had passed that way since the storm."
)
SKIPPED = 16


def main() -> None:
    torch.set_num_threads(1)
    model = load_model(*sys.argv[1:2], device="cpu")
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    skip = min(SKIPPED, size // 2)
    beside_transformer_lens(model, size, skip, range(first, model.n_layers - 1))
    with TemporaryDirectory() as root:
        settings = {"n_prompts": 1, "context_size": size, "skip_first": skip, "first_layer": first}
        lens, spent = timed(lambda: fit_lens(model, root=Path(root), **settings))
        print(f"fit_lens, one prompt of {size} tokens: {spent:.1f} s of CPU time")
        for name, each in (("logit", None), ("Jacobian", lens)):
            reading, spent = timed(partial(read_lens, model, [model.tokenize(TEXT)], lens=each))
            print(f"{name} lens, a reading: {spent:.1f} s; {reading.why}")


def beside_transformer_lens(model: LanguageModel, size: int, skip: int, layers: range) -> None:
    """One prompt by both, and how far the matrices are apart."""
    prompt, ids = same_prompt(model, size)
    theirs, their_s = timed(
        lambda: JacobianLens.fit(
            model.bridge,
            [prompt],
            corpus="benchmark",
            source_layers=[*layers],
            max_seq_len=size,
            skip_first_positions=skip,
            show_progress=False,
        )
    )
    ours, our_s = timed(lambda: fit_jacobian(model, ids, layers=layers, skip_first=skip))
    apart = max(
        float((ours[n] - theirs.jacobians[n]).norm() / theirs.jacobians[n].norm()) for n in layers
    )
    print(
        f"one prompt of {size} tokens, layers {layers[0]} to {layers[-1]}: JacobianLens.fit "
        f"{their_s:.1f} s, here {our_s:.1f} s of CPU time (ratio {our_s / their_s:.2f}); largest "
        f"relative difference of a matrix {apart:.1e}"
    )


def same_prompt(model: LanguageModel, size: int) -> tuple[str, torch.Tensor]:
    """A prompt as transformer-lens reads it, and its first tokens."""
    ids = model.bridge.to_tokens(LONG)[0, :size].cpu()
    if len(ids) < size:
        raise SystemExit(f"The text has {len(ids)} tokens: ask for no more.")
    return LONG, ids


def timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    return work(), time.process_time() - started


if __name__ == "__main__":
    main()
