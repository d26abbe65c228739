"""What it costs to compare two prompts and to match two SAEs, on the embedded model.

    python benchmarks/pairs.py

Matched is the embedded SAE with a copy whose features stand in another order, with noise: 4,608
features each, on embedded text.
"""

import platform
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch

import saescope as ss

A = "My brother lost his keys and called our father because"
B = "My sister lost her keys and called our mother because"
NOISE = 0.5


def shuffled(sae: Any) -> tuple[Any, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(sae.cfg.d_sae, generator=draw)
    tensors = {name: tensor.clone() for name, tensor in sae.tensors().items()}
    for name in ("W_enc", "W_dec"):
        rows = (tensors[name].T if name == "W_enc" else tensors[name])[order]
        noise = torch.randn(rows.shape, generator=draw)
        scale = rows.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        rows = rows + NOISE * noise * scale
        tensors[name] = (rows.T if name == "W_enc" else rows).contiguous()
    tensors["b_enc"] = tensors["b_enc"][order]
    return type(sae)(sae.cfg, tensors), order


def timed(what: str, function: Callable[[], Any]) -> Any:
    began, cpu = time.perf_counter(), time.process_time()
    done = function()
    spent = f"{time.process_time() - cpu:.1f} s | {time.perf_counter() - began:.1f} s"
    print(f"| {what} | {spent} |", flush=True)
    return done


def main() -> None:
    model, sae = ss.load_model(), ss.load_sae()
    threads = torch.get_num_threads()
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {threads} threads\n")
    a, b = (model.tokenize(text) for text in (A, B))
    print("| what | CPU | wall |\n|---|---|---|")
    ss.compare_prompts(model, sae, a, b, k=1, n_controls=0)  # what is measured once for all
    found = timed(
        f"compare_prompts, {len(a)} tokens, k=10, 19 + 19 controls",
        lambda: ss.compare_prompts(model, sae, a, b, target=" she", against=" he"),
    )
    other, order = shuffled(sae)
    matched = timed(
        f"match_features, {sae.cfg.d_sae} features each, embedded text",
        lambda: ss.match_features(model, sae, other, k=sae.cfg.d_sae),
    )
    truth = {int(old): new for new, old in enumerate(order)}
    right = sum(truth[row.feature] == row.partner for row in matched.features)
    print(f"\n{found.verdict}; all {found.all_features}, listed {found.together}")
    print(f"error {found.error}, whole {found.whole}, control {found.control}, {found.placebo}")
    for row in found.features:
        print(row)
    print(f"{right} of {matched.n_matched} partners are right; {matched.n_features} features")
    print(f"chance {matched.chance:.3f}, median {matched.score}, {matched.warnings}")
    print(matched.features[0], matched.n_tokens)


if __name__ == "__main__":
    main()
