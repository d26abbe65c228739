"""What an index costs beside what it cannot do without: the forward pass to the SAE's layer, and
one encode.

    python benchmarks/indexing.py [--n-tokens 20000] [--rounds 3]

Both read the same contexts of the packaged text with the embedded model and SAE, one after the
other in each round, in CPU seconds on one thread. The index's share includes everything:
tokenizing, statistics, examples, the sample, and writing the finished index.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import saescope as ss
from saescope.activations import ContextConfig, Harvester, open_dataset
from saescope.activations.corpus import Corpus
from saescope.features.index import IndexConfig, IndexRun
from saescope.models import LanguageModel
from saescope.saes import SAE
from saescope.splice import prepare_input, read_hook


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def least_work(model: LanguageModel, sae: SAE, cfg: IndexConfig) -> Callable[[], object]:
    """Forward and encode over the contexts that an index reads; these are tokenized beforehand."""
    asked = ContextConfig(context_size=cfg.context_size, prepend_bos=cfg.prepend_bos, held_out=0.0)
    corpus = Corpus(model, open_dataset("embedded"), asked, n_tokens=cfg.n_tokens)
    contexts = list[torch.Tensor]()
    while not corpus.ended:
        contexts.append(corpus.peek().ids)
        corpus.done()
    harvester = Harvester(model, [read_hook(sae)], cfg.context_size)

    def work() -> None:
        with torch.no_grad():
            for ids in contexts:
                sae.encode_sparse(
                    prepare_input(model, sae, harvester(ids.clamp(min=0).long())[read_hook(sae)])
                )

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-tokens", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    model, sae = ss.load_model(device="cpu"), ss.load_sae(device="cpu")
    cfg = IndexConfig(n_tokens=arguments.n_tokens, prepend_bos=False)
    least = least_work(model, sae, cfg)
    print(
        f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}, "
        f"{arguments.n_tokens} tokens, {sae.cfg.d_sae} features"
    )
    rows: list[tuple[float, float]] = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as root:
            run = IndexRun(model, [sae], open_dataset("embedded"), cfg, root=Path(root))
            times = {work: seconds(work) for work in random.sample([least, run.go], 2)}
        rows.append((times[least], times[run.go]))
        print(
            f"forward and encode {rows[-1][0]:.2f} s, index {rows[-1][1]:.2f} s, ratio "
            f"{rows[-1][1] / rows[-1][0]:.3f}"
        )
    print(f"ratio {statistics.median(b / a for a, b in rows):.3f} (median of {len(rows)})")


if __name__ == "__main__":
    main()
