"""What a Jacobian lens costs: one prompt of a fit, and one reading through it.

python benchmarks/lenses.py [model folder; default: the embedded model] [tokens of the prompt]
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from saescope.lens import fit_lens, read_lens
from saescope.models import load_model

TEXT = "The capital of France is the city of Paris, and the capital of Italy is the city of"


def main() -> None:
    torch.set_num_threads(1)
    model = load_model(*sys.argv[1:2], device="cpu")
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    with TemporaryDirectory() as root:
        started = time.process_time()
        lens = fit_lens(
            model, root=Path(root), n_prompts=1, context_size=size, skip_first=min(16, size // 2)
        )
        print(
            f"fit, one prompt of {size} tokens: {time.process_time() - started:.0f} s of CPU time"
        )
        for name, each in (("logit", None), ("Jacobian", lens)):
            started = time.process_time()
            reading = read_lens(model, [model.tokenize(TEXT)], lens=each)
            print(f"{name} lens, a reading: {time.process_time() - started:.1f} s; {reading.why}")


if __name__ == "__main__":
    main()
