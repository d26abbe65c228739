"""Encoding with a wide TopK SAE beside the encoder's product alone, and the memory that it adds.

    PYTHONPATH=core python benchmarks/encode.py [--rounds 9]

4,096 positions, d_in 768, d_sae 24,576, k 32, one thread. The product is computed in chunks of the
same size, into memory that is given back, so that what is compared is choosing the k largest.
Memory is the growth of the peak from 4,096 to 16,384 positions, for each entry that is kept.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from saescope.ops import CHUNK
from saescope.products import times_rows
from saescope.saes import TopKConfig, TopKSAE

N, D_IN, D_SAE, K = 4096, 768, 24_576, 32


def wide_sae() -> TopKSAE:
    """Random directions."""
    cfg = TopKConfig(d_in=D_IN, d_sae=D_SAE, k=K)
    draw = torch.Generator().manual_seed(0)
    shapes = TopKSAE.shapes(cfg).items()
    return TopKSAE(cfg, {name: 0.05 * torch.randn(shape, generator=draw) for name, shape in shapes})


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speeds(rounds: int) -> list[float]:
    """The product's time as a share of the whole encoding's, round by round."""
    sae, x = wide_sae(), torch.randn(N, D_IN, generator=torch.Generator().manual_seed(1))

    def product() -> None:
        for part in x.split(CHUNK):
            times_rows(part, sae.encoder, sae.b_enc)

    def encode() -> None:
        assert len(sae.encode_sparse(x).values) == N * K

    with torch.no_grad():
        product()
        encode()
        return [seconds(product) / seconds(encode) for _ in range(rounds)]


def bytes_an_entry() -> float:
    """How much the peak grows with each entry that is kept."""
    sae = wide_sae()
    x = torch.randn(4 * N, D_IN, generator=torch.Generator().manual_seed(1))

    def peak(n: int) -> int:
        Path("/proc/self/clear_refs").write_text("5")  # the highest from here on
        before = _resident("VmRSS")
        with torch.no_grad():
            sae.encode_sparse(x[:n])
        return _resident("VmHWM") - before

    peak(N)
    return (peak(4 * N) - peak(N)) / (3 * N * K)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = speeds(asked.rounds)
    print(
        f"product / encode {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}); "
        f"{bytes_an_entry():.0f} bytes for each entry"
    )


if __name__ == "__main__":
    main()
