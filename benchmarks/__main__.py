"""All benchmarks that have a target, as one command: ratios of one run each, in a table with the
date beside the last one.

    python -m benchmarks [NAME ...] [--peer PEER/bin/python] [--rounds 5]

NAME is loading, first-answer, command, encode, training, run, attribution, steering, evaluation,
tools-list or tests; all without one. Both sides of a ratio take turns on one thread, and the median
counts. What is compared with sae-lens needs the Python of an environment that has it (sae-lens
6.54.12 and jaxtyping; it cannot be installed beside saescope): --peer, or PEER_PYTHON. A benchmark
whose peer is not here is skipped, and the table says why. benchmarks/results/DATE.md keeps the
lines of the same day that were not measured again; --results names another folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks import figures, rows

RESULTS = Path(__file__).parent / "results"
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def measured(name: str, asked: rows.Asked) -> list[figures.Figure] | str:
    """The figures of a benchmark, in a process of its own; why there are none."""
    row = rows.ROWS[name]
    if row.needs_peer and not asked.peer:
        return "no environment with sae-lens is named (--peer, or PEER_PYTHON)"
    if row.needs_model and not rows.model_is_here():
        return "the embedded model is not here (saescope demo fetches it)"
    command = [sys.executable, "-m", "benchmarks", name, "--only"]
    command += ["--peer", asked.peer, "--rounds", str(asked.rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | QUIET)
    if done.returncode:
        return f"it failed with status {done.returncode}"
    found = json.loads(done.stdout.splitlines()[-1])
    return [figures.Figure(*each) for each in found]


def lines_of(name: str, asked: rows.Asked, last: dict[tuple[str, str], str]) -> list[figures.Line]:
    """The lines of a benchmark."""
    found = measured(name, asked)
    if isinstance(found, str):
        return [figures.skipped(name, found)]
    return [figures.line_of(name, each, last.get((name, each.name), "")) for each in found]


def head() -> str:
    """What the numbers depend on."""
    import torch

    cpu = torch.backends.cpu.get_cpu_capability()
    return (
        f"# Benchmarks of {date.today()}\n\nMade by `python -m benchmarks`: medians of ratios, "
        f"each of one run on one thread. {platform.machine()} ({cpu}), {os.cpu_count()} cores, "
        f"torch {torch.__version__}, Python {platform.python_version()}; load "
        f"{os.getloadavg()[0]:.1f} at the end. What a figure is and how it is measured: the "
        "scripts beside this folder."
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--peer", default=os.environ.get("PEER_PYTHON", ""))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if unknown := set(options.names) - rows.ROWS.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(rows.ROWS)}")
    asked = rows.Asked(options.peer, options.rounds)
    if options.only:
        print(json.dumps(rows.ROWS[options.names[0]].measure(asked)))
        return
    day = str(date.today())
    table, last = options.results / f"{day}.md", figures.before(options.results, day)
    kept = figures.read_table(table) if table.exists() else []
    for name in options.names or rows.ROWS:
        lines = lines_of(name, asked, last)
        kept = figures.merged(kept, lines)
        kept.sort(key=lambda line: [*rows.ROWS].index(line.benchmark))
        figures.write_table(table, kept, head())
        for line in lines:
            print(" | ".join(line), flush=True)


if __name__ == "__main__":
    main()
