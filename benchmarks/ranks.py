"""What each rank holds and sends where several train one SAE: `python benchmarks/ranks.py`.

Times of ranks that share two cores say nothing of several cards: none are taken."""

import json
import os
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from saescope.ranks import joined
from saescope.training import ListBatches, TrainConfig, Trainer
from saescope.training.machine import peak_bytes

N_STEPS, BATCH, D_IN, D_SAE = 4, 64, 512, 32768
HERE = torch.device("cpu")


class Counted:
    """Bytes that this rank gives to collectives."""

    def __init__(self) -> None:
        self.n_bytes, self.n_calls = 0, 0
        self._wrap("all_reduce", 0)
        self._wrap("all_gather", 1)

    def _wrap(self, name: str, given: int) -> None:
        real: Any = getattr(torch.distributed, name)

        def counted(*words: Any, **named: Any) -> Any:
            self.n_bytes += words[given].nbytes
            self.n_calls += 1
            return real(*words, **named)

        setattr(torch.distributed, name, counted)


def on_a_rank(*, shard: bool) -> None:
    """One rank's run; the first one prints what each had."""
    torch.set_num_threads(1)
    cfg = TrainConfig(
        hook_name="blocks.0.hook_resid_post",
        d_in=D_IN,
        d_sae=D_SAE,
        batch_size=BATCH,
        training_tokens=N_STEPS * BATCH,
        n_batches_for_norm_estimate=1,
        shard_features=shard,
    )
    generator = torch.Generator().manual_seed(0)
    batches: list[Tensor] = [torch.randn(BATCH, D_IN, generator=generator) for _ in range(N_STEPS)]
    with joined() as ranks:
        ranks.wait()
        before, sent = peak_bytes(HERE), Counted()
        trainer = Trainer(cfg, ListBatches(batches), ranks=ranks)
        held = trainer.params | trainer.adam.state()
        while trainer.step < cfg.n_steps:
            trainer.advance()
        mine = {
            "held": sum(x.nbytes for x in held.values()),
            "peak": peak_bytes(HERE) - before,
            "sent_a_step": sent.n_bytes // N_STEPS,
            "calls_a_step": sent.n_calls / N_STEPS,
        }
        everyone = ranks.each(mine)
    if ranks.writes:
        print(json.dumps({"ranks": ranks.size, "shard_features": shard, "each": everyone}))


def main() -> None:
    """Run with one, two and four ranks, either way."""
    for n, shard in ((1, False), (2, False), (2, True), (4, True)):
        agent = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
        words = [sys.executable, *agent, __file__, "rank", str(int(shard))]
        subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        on_a_rank(shard=sys.argv[2] == "1")
    else:
        main()
