"""The benchmarks that have a target, each a few figures of a script beside this one. What runs in
the environment of the peers is started as a script there."""

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figure

HERE = Path(__file__).parent
RUN_TOKENS, EVALUATED = 200_000, 20_000
SMALL, WIDE = (4096, 512, 4096, 16), (2048, 768, 24_576, 32)
LARGE, WIDEST = (1024, 4096, 16_384, 128), (2048, 512, 65_536, 64)
GRID = (
    (SMALL, ("topk", "batchtopk", "matryoshka", "standard L0 32", "gated L0 64", "jumprelu L0 64")),
    (SMALL, ("topk 20% dead",)),
    (WIDE, ("topk", "topk 20% dead", "jumprelu L0 64")),
    (LARGE, ("topk",)),
    (WIDEST, ("topk",)),
)
"""Positions, d_in, d_sae and k, with the cases of training_step.py: each end of each. 4,096 by
65,536 is left out: two trainers of that size do not fit into 24 GB."""


class Asked(NamedTuple):
    """What the user says of a run."""

    peer: str
    rounds: int


class Row(NamedTuple):
    """A benchmark."""

    measure: Callable[[Asked], list[Figure]]
    needs_peer: bool = False
    needs_model: bool = False


def model_is_here() -> bool:
    from saescope.embedded import is_ready

    return is_ready()


def loading(asked: Asked) -> list[Figure]:
    from benchmarks.loading import OURS, THEIRS, measure, write_sae

    with tempfile.TemporaryDirectory() as folder:
        write_sae(Path(folder))
        pairs = [
            (
                measure(sys.executable, OURS, folder, "float32"),
                measure(asked.peer, THEIRS, folder, "float32"),
            )
            for _ in range(asked.rounds + 1)
        ][1:]

    def whole(said: dict[str, float]) -> float:
        return said["import_s"] + said["used_s"]

    alone = [ours["used_s"] / theirs["used_s"] for ours, theirs in pairs]
    imported = [whole(ours) / whole(theirs) for ours, theirs in pairs]
    return [
        Figure("to the first use / sae-lens", "<= 8", alone),
        Figure("the same with imports / sae-lens", "<= 0.3", imported),
    ]


def first_answer(asked: Asked) -> list[Figure]:
    from benchmarks.first_answer import seconds

    pairs = seconds(asked.peer, asked.rounds)
    ratios = [ours / theirs for ours, theirs in pairs]
    return [Figure("a new server's / a script's with sae-lens", "<= 0.5", ratios)]


def command(asked: Asked) -> list[Figure]:
    from benchmarks.warm import overheads

    return [Figure("overhead of a second command, s", "<= 1", overheads(asked.rounds))]


def encode(asked: Asked) -> list[Figure]:
    import torch
    from benchmarks.encode import bytes_an_entry, speeds

    torch.set_num_threads(1)
    return [
        Figure("product / encode and top k", ">= 0.85", speeds(asked.rounds)),
        Figure("growth of the peak, bytes an entry", "<= 64", [bytes_an_entry()]),
    ]


def training(asked: Asked) -> list[Figure]:
    found: list[Figure] = []
    for shape, cases in GRID:
        said = _in_peer(
            asked.peer, "training_step.py", *cases, "--json", "--rounds", str(asked.rounds),
            "--shape", *map(str, shape),
        )  # fmt: skip
        size = f"{shape[1]} x {shape[2]}, k {shape[3]}"
        for case, ratios in json.loads(said).items():
            product = {"topk": "<= 1.5", "topk 20% dead": "<= 2"}.get(case, "")
            for name, rounds in ratios.items():
                target = product if name.endswith("product") else "<= 1"
                if rounds:
                    found.append(Figure(f"{case}, {size}: {name}", target, rounds))
    return found


def run(asked: Asked) -> list[Figure]:
    sys.path.insert(0, str(HERE))  # it imports its neighbours, as a script of the peers does
    import torch
    from benchmarks.whole_run import measure

    from saescope.activations.text import EMBEDDED_CORPUS
    from saescope.embedded import model_dir

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_bytes(lzma.decompress(EMBEDDED_CORPUS.read_bytes()))
        args = argparse.Namespace(
            model=str(model_dir()), text=str(text), peers=asked.peer, tokens=RUN_TOKENS, rounds=1
        )
        runs = measure(args, ("online", "sae-lens"))
    pairs = [*zip(runs["online"], runs["sae-lens"], strict=True)]
    least = ">= 3" if "AVX512" in torch.backends.cpu.get_cpu_capability() else ">= 2.5"
    apart = [ours["explained_variance"] - theirs["explained_variance"] for ours, theirs in pairs]
    return [
        Figure(
            "sae-lens / ours", least, [theirs["whole"] / ours["whole"] for ours, theirs in pairs]
        ),
        Figure("explained variance, ours - sae-lens", ">= 0", apart),
    ]


def attribution(asked: Asked) -> list[Figure]:
    from benchmarks import passes

    return [Figure("/ one forward and backward pass", "<= 7", passes.attribution(asked.rounds))]


def steering(asked: Asked) -> list[Figure]:
    from benchmarks import passes

    return [Figure("tokens a second / plain", ">= 0.9", passes.steering(asked.rounds))]


def evaluation(asked: Asked) -> list[Figure]:
    from benchmarks import passes

    found = passes.evaluation(1, EVALUATED)
    return [Figure("/ the passes that it needs", "<= 1.3", found)]


def tools_list(asked: Asked) -> list[Figure]:
    from scripts.bench_startup import BARE, seconds_to_tools

    ours, bare = [sys.executable, "-m", "saescope_mcp"], [sys.executable, "-c", BARE]
    pairs = [(seconds_to_tools(*ours), seconds_to_tools(*bare)) for _ in range(asked.rounds + 1)]
    return [
        Figure("to the list of tools, s", "<= 1", [own for own, _ in pairs[1:]]),
        Figure("/ a bare server", "<= 1.2", [own / base for own, base in pairs[1:]]),
    ]


def tests(asked: Asked) -> list[Figure]:
    start = time.perf_counter()
    subprocess.run(["make", "test"], cwd=HERE.parent, check=True, stdout=sys.stderr)
    return [Figure("make test, minutes", "<= 5", [(time.perf_counter() - start) / 60])]


def _in_peer(peer: str, script: str, *words: str) -> str:
    """The last line that a script prints in the environment of the peers."""
    env = os.environ | {"PYTHONPATH": str(HERE.parent / "core")}
    command = [peer, str(HERE / script), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True)
    return done.stdout.splitlines()[-1]


ROWS = {
    "loading": Row(loading, needs_peer=True),
    "first-answer": Row(first_answer, needs_peer=True, needs_model=True),
    "command": Row(command, needs_model=True),
    "encode": Row(encode),
    "training": Row(training, needs_peer=True),
    "run": Row(run, needs_peer=True, needs_model=True),
    "attribution": Row(attribution, needs_model=True),
    "steering": Row(steering, needs_model=True),
    "evaluation": Row(evaluation, needs_model=True),
    "tools-list": Row(tools_list),
    "tests": Row(tests, needs_model=True),
}
