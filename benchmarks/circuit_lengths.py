"""How a circuit's time and memory grow with its prompt, and what long prompts take.

    python benchmarks/circuit_lengths.py SET [--tokens 64 128 256 512 1000] [--features 2000]

SET is a folder that `ss.load_set` opens (scripts/train_circuit_set.py writes one for SmolLM2-135M).
After 16 tokens to warm up, each length is the graph of the likely next tokens after the first
tokens of TEXT (the embedded corpus without --text): `--features` rows, `--measured` nodes ablated,
`--controls` random parts. "Rows" is from the clean run to the pruned graph, "proof" all that is
measured by ablation. Peak memory is the highest resident set of the process above that of the
loaded, warm one. Then, by arithmetic from the sizes of model and set, what other lengths hold.
"""

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

WARM_UP = 16


def resident(field: str) -> float:
    """MB of this process: VmRSS now, or VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(args: argparse.Namespace) -> None:
    """The graph of every length."""
    import torch

    import saescope as ss
    from saescope.activations.text import EMBEDDED_CORPUS

    torch.set_num_threads(args.threads)
    model = ss.load_model(*([args.model] if args.model else []), device="cpu", dtype="float32")
    of = ss.load_set(args.set, device="cpu", dtype="float32").settled(model)
    text = args.text.read_text() if args.text else _unpacked(EMBEDDED_CORPUS)
    rows: list[dict[str, Any]] = []
    for n in (WARM_UP, *args.tokens):
        tokens = model.tokenize(text[: 12 * n], limit=n)
        assert len(tokens) == n, f"the text has {len(tokens)} tokens"
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest from here on
        found = {"tokens": n, "load": os.getloadavg()[0], **_graph(args, model, of, tokens)}
        rows.append(found | {"mb": resident("VmHWM") - before})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    table(rows[1:])
    longer(rows[-1], weights=_weights(model, of), patterns=_patterns(model))


def _unpacked(file: Path) -> str:
    import lzma

    return lzma.decompress(file.read_bytes()).decode()


def _graph(args: argparse.Namespace, model: Any, of: Any, tokens: Any) -> dict[str, Any]:
    import torch

    from saescope.graphs.proof import prove
    from saescope.graphs.targets import choose_targets
    from saescope.graphs.trace import trace
    from saescope.records.graph import GraphSettings

    settings = GraphSettings(
        max_features=args.features, most_measured=args.measured, n_controls=args.controls
    )
    with torch.no_grad():
        logits = model.forward(model.batch(tokens.ids), last=1)[0][0, -1]
        targets = choose_targets(model, logits, named=(), against=None, settings=settings)
        traced, rows = timed(lambda: trace(model, of, tokens, targets, settings), "rows")
        graph, proof = timed(lambda: prove(traced), "proof")
    return {
        "active": graph.n_active,
        "traced": graph.n_traced,
        "untraced": graph.untraced,
        "replacement": graph.scores.replacement,
        "nodes": len(graph.nodes),
        "ablated": graph.proof.n_nodes if graph.proof else 0,
        **rows,
        **proof,
    }


def _weights(model: Any, of: Any) -> float:
    """MB of the model and of the whole set."""
    held = sum(p.numel() * p.element_size() for p in model.bridge.parameters())
    return (held + of.memory.whole) / 2**20


def _patterns(model: Any) -> float:
    """MB of all attention patterns over one token and one other."""
    return 4 * model.n_layers * model.bridge.cfg.n_heads / 2**20


def longer(last: Mapping[str, Any], *, weights: float, patterns: float) -> None:
    """The memory of longer prompts. What grows with the square of the length is the patterns: those
    that are held, and a copy of their beginning, at most 7/8 of the prompt, in a tape; all else of
    the longest measured peak is taken to grow with the length."""
    n, quadratic = last["tokens"], patterns * (1 + (7 / 8) ** 2)
    rest = (last["mb"] - quadratic * n**2) / n
    print(
        f"\nweights {weights:,.0f} MB; peak at {n:,} tokens {last['mb']:,.0f} MB\n"
        "| tokens | patterns GB | all else GB | with weights GB |\n|---|---|---|---|"
    )
    for tokens in (1000, 2000, 3000, 4000, 6000, 8000):
        held, other = quadratic * tokens**2, rest * tokens
        print(
            f"| {tokens:,} | {held / 1024:.1f} | {other / 1024:.1f} | "
            f"{(held + other + weights) / 1024:.1f} |"
        )


def timed(work: Callable[[], Any], name: str) -> tuple[Any, dict[str, float]]:
    """What it gives, with the seconds that it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {
        f"{name}_wall_s": time.perf_counter() - wall,
        f"{name}_cpu_s": time.process_time() - cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path)
    parser.add_argument("--model", default="", help="folder or hub name; SmolLM2-135M without it")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128, 256, 512, 1000])
    parser.add_argument("--features", type=int, default=2000)
    parser.add_argument("--measured", type=int, default=100)
    parser.add_argument("--controls", type=int, default=19)
    parser.add_argument("--threads", type=int, default=1)
    measure(parser.parse_args())


def table(rows: list[dict[str, Any]]) -> None:
    print(
        "| tokens | active | rows | rows: wall s, CPU s | ablated | proof: wall s, CPU s | peak MB "
        "| load |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['tokens']:,} | {row['active']:,} | {row['traced']:,} | "
            f"{row['rows_wall_s']:.0f}, {row['rows_cpu_s']:.0f} | {row['ablated']} | "
            f"{row['proof_wall_s']:.0f}, {row['proof_cpu_s']:.0f} | {row['mb']:,.0f} | "
            f"{row['load']:.1f} |"
        )


if __name__ == "__main__":
    main()
