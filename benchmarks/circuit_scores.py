"""What circuits over a set of transcoders are worth: the graphs of 20 prompts, scored and measured.

    python benchmarks/circuit_scores.py SET [--model FOLDER] [--out FILE]

SET is a folder that `ss.load_set` opens, such as the one that scripts/train_circuit_set.py writes;
its scores.json (explained variance and CE score of each layer on held-out text) is shown too. The
prompts are of usual kinds: facts, induction, plain text, code. Each graph is that of the likely
next tokens; without options with the tool's defaults: 2,000 features whose sources are computed,
100 nodes that are ablated, 19 random parts. An interval is the exact one of a median at 95 % (order
statistics). Before that, all transcoders take the place of all MLPs at once, without errors.

FILE gets a line of JSON a prompt; prompts that it has are not traced again.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import saescope as ss
from saescope.evals.set_check import check_set
from saescope.models import LanguageModel
from saescope.records.graph import Graph, GraphSettings
from saescope.sets import SAESet

PROMPTS = {
    "fact": [
        "The capital of France is",
        "The opposite of hot is",
        "The Eiffel Tower stands in the city of",
        "The chemical symbol for gold is",
        "A person who flies an airplane is called a",
    ],
    "induction": [
        "Mr. Dursley met Mrs. Potter. Later that day Mr. Dursley spoke to Mrs.",
        "red blue green yellow red blue green",
        "Anna likes tea and Peter likes coffee. The waiter brought Peter his",
        "The password is QX7. Please remember that the password is",
        "Karla Voss lives in Oslo. Nobody knew that Karla",
    ],
    "text": [
        "After the rain had stopped, the children ran out into the",
        "She opened the letter with trembling hands and began to",
        "The committee will meet again next week to discuss the",
        "My sister lost her keys and called our mother because",
        "Most people agree that a good night's sleep is",
    ],
    "code": [
        "for i in range(10):\n    print(",
        "def add(a, b):\n    return a +",
        "import numpy as",
        "if (x > 0) {\n    return x;\n} else {\n    return",
        "SELECT name FROM users WHERE id =",
    ],
}
SHOWN = {
    "replacement": "replacement",
    "completeness": "completeness",
    "errors": "share that ends in errors",
    "untraced": "share that ends in features without rows",
    "confirmed": "confirmed of the 50 strongest edges",
    "nodes_confirmed": "confirmed nodes (effect on the target)",
    "rank_correlation": "rank correlation, predicted and measured",
    "alone": "lost with the kept features alone (nats)",
    "alone_random": "... with as many random ones alone",
    "without": "lost without the kept features (nats)",
    "without_random": "... without as many random ones",
    "kept_features": "features kept",
}


def scores_of(graph: Graph) -> dict[str, float | None]:
    """The figures of one graph."""
    proof = graph.proof
    assert proof is not None, "the settings measure"
    return {
        "replacement": graph.scores.replacement,
        "completeness": graph.scores.completeness,
        "errors": 1 - graph.scores.replacement,
        "untraced": graph.untraced,
        "confirmed": proof.n_confirmed / proof.n_edges if proof.n_edges else None,
        "nodes_confirmed": proof.n_nodes_confirmed / proof.n_nodes if proof.n_nodes else None,
        "rank_correlation": proof.rank_correlation,
        "alone": proof.sufficiency.kept,
        "alone_random": proof.sufficiency.controls.mean,
        "without": proof.necessity.kept,
        "without_random": proof.necessity.controls.mean,
        "kept_features": sum(node.kind == "feature" for node in graph.nodes),
        "n_edges": proof.n_edges,
        "linear_off": proof.linear_off,
        "active": graph.n_active,
        "p": graph.targets[0].prob,
    }


def traced(
    model: LanguageModel,
    of: SAESet,
    known: dict[str, Any],
    *,
    settings: GraphSettings,
    out: Path | None,
) -> None:
    """Trace the prompts that are not known yet."""
    turns = zip(
        *([(kind, one) for one in prompts] for kind, prompts in PROMPTS.items()), strict=True
    )
    for kind, prompt in (pair for turn in turns for pair in turn):
        if prompt in known:
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        graph = ss.trace_circuit(model, of, prompt, settings=settings)
        known[prompt] = {"prompt": prompt, "kind": kind, "target": graph.targets[0].label}
        known[prompt] |= scores_of(graph)
        known[prompt] |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(known[prompt]), flush=True)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[prompt]) + "\n")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of a median at 95 % or more, from order statistics."""
    ordered, n = sorted(values), len(values)
    tail, low = 0.0, 0
    while (tail := tail + math.comb(n, low) / 2**n) <= 0.025:
        low += 1
    low = max(low - 1, 0)
    return ordered[low], ordered[n - 1 - low]


def table(rows: Sequence[dict[str, Any]]) -> None:
    """All prompts, and each kind's median."""
    print(f"\n| | median of {len(rows)} | interval | {' | '.join(PROMPTS)} |")
    print(f"|---|---|---|{'---|' * len(PROMPTS)}")
    for name, said in SHOWN.items():
        found = [row for row in rows if row[name] is not None]
        values = [row[name] for row in found]
        cells = [f"{statistics.median(values):.2f}", "{:.2f} to {:.2f}".format(*interval(values))]
        for kind in PROMPTS:
            of_kind = [row[name] for row in found if row["kind"] == kind]
            cells.append(f"{statistics.median(of_kind):.2f}" if of_kind else "")
        print(f"| {said} | {' | '.join(cells)} |")


class AllAtOnce(NamedTuple):
    """The model with every MLP replaced by its transcoder, errors dropped, at all positions but the
    first."""

    n: int
    """Positions of the prompts."""
    same: int
    """Those with the same likeliest next token."""
    before: float
    """Mean cross-entropy of the prompts' own tokens, in nats, and below, with the transcoders."""
    after: float


@torch.no_grad()
def all_at_once(model: LanguageModel, of: SAESet) -> AllAtOnce:
    """What the set keeps of the model when nothing but features is left of the MLPs."""
    read: dict[str, Tensor] = {}
    hooks: list[tuple[str, Any]] = []
    for member in of.members:
        hooks.append((member.read_hook, _keep(read, member.read_hook)))
        hooks.append((member.write_hooks[member.index], _replace(of, member.index, read)))
    same, losses = list[Tensor](), list[Tensor]()
    for prompt in (prompt for prompts in PROMPTS.values() for prompt in prompts):
        ids = model.batch(model.tokenize(prompt).ids)
        clean = model.forward(ids)[0][0].double()
        with model.lock, model.hooked(hooks):
            replaced = model.forward(ids)[0][0].double()
        same.append((clean.argmax(-1) == replaced.argmax(-1))[1:])
        logs = torch.stack([clean, replaced]).log_softmax(-1)[:, 1:-1]
        losses.append(-logs.gather(2, ids[:, 2:, None].expand(2, -1, -1))[..., 0])
    at, (before, after) = torch.cat(same), torch.cat(losses, dim=1).mean(1).tolist()
    return AllAtOnce(len(at), int(at.sum()), before, after)


def _keep(read: dict[str, Tensor], hook_name: str) -> Any:
    def keep(x: Tensor, hook: object) -> None:
        read[hook_name] = x.clone()

    return keep


def _replace(of: SAESet, i: int, read: dict[str, Tensor]) -> Any:
    member = of.members[i]

    def replace(x: Tensor, hook: object) -> Tensor:
        given = read[member.read_hook].flatten(0, 1)
        made = of.reconstruction(i, {i: member.encode(given)}, {i: given})
        return torch.cat([x[:, :1], made.reshape(x.shape)[:, 1:]], dim=1)

    return replace


def by_layer(model: LanguageModel, of: SAESet, folder: Path) -> None:
    """The scores that the recipe wrote on held-out text; without them the check of a load."""
    file = folder / "scores.json"
    if not file.is_file():
        check = check_set(model, of)
        print(f"\n| layer | explained variance on {check.n_tokens} tokens |\n|---|---|")
        for layer in check.layers:
            print(f"| {layer.hook_name.split('.')[1]} | {layer.explained_variance:.3f} |")
        return
    print("\n| layer | explained variance | CE score | never fired |\n|---|---|---|---|")
    for name, score in json.loads(file.read_text(encoding="utf-8")).items():
        print(
            f"| {name.removeprefix('layer_')} | {score['explained_variance']:.3f} | "
            f"{score['ce_score']:.3f} | {score['dead_share']:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path)
    parser.add_argument("--model", default="", help="folder or hub name; SmolLM2-135M without it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--features", type=int, default=2000)
    parser.add_argument("--measured", type=int, default=100)
    parser.add_argument("--controls", type=int, default=19)
    args = parser.parse_args()
    model = ss.load_model(*([args.model] if args.model else []), dtype="float32")
    of = ss.load_set(args.set, device=str(model.device), dtype="float32").settled(model)
    known: dict[str, Any] = {}
    if args.out and args.out.is_file():
        lines = args.out.read_text(encoding="utf-8").splitlines()
        known = {row["prompt"]: row for row in map(json.loads, lines)}
    whole = all_at_once(model, of)
    print(
        f"all transcoders at once: the same likeliest token at {whole.same} of {whole.n} positions;"
        f" cross-entropy of the prompts {whole.before:.2f} -> {whole.after:.2f} nats",
        flush=True,
    )
    settings = GraphSettings(
        max_features=args.features, most_measured=args.measured, n_controls=args.controls
    )
    traced(model, of, known, settings=settings, out=args.out)
    table([known[prompt] for prompts in PROMPTS.values() for prompt in prompts if prompt in known])
    by_layer(model, of, args.set)


if __name__ == "__main__":
    main()
