"""Play the benchmark and print its table: `python -m agent_evals.scientist.run planted`,
`... embedded`, or `... published FOLDER`."""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import anyio

from agent_evals.scientist.embedded import embedded_ground
from agent_evals.scientist.evaluate import Judged, judge_answer
from agent_evals.scientist.lab import lab_of
from agent_evals.scientist.live import live_agent
from agent_evals.scientist.players import SCRIPTED
from agent_evals.scientist.published import published_grounds
from agent_evals.scientist.scores import overall, share
from agent_evals.scientist.wish import Answer, Ground, Scientist, Wish
from agent_evals.scientist.world import VERSION, make_world

SEEDS = range(8)
PLAYERS: dict[str, Scientist] = {**SCRIPTED, "live": live_agent}


class Played(NamedTuple):
    """One player on one wish."""

    ground: Ground
    wish: Wish
    answer: Answer
    judged: Judged
    seconds: float


def main() -> int:
    asked = arguments()
    playing = {name: PLAYERS[name] for name in asked.players}
    with grounds(asked) as found:
        played = anyio.run(play_all, found, playing)
    title = f"{datetime.now(UTC):%Y-%m-%d}, {asked.what}, generator {VERSION}"
    table = f"{title}\n\n{as_table(played)}\n"
    print(f"\n{table}")
    for name, rows in played.items():
        print(f"{name}: {wrong(rows)}")
    if asked.out:
        asked.out.write_text(
            json.dumps({name: [as_row(row) for row in rows] for name, rows in played.items()}),
            encoding="utf-8",
        )
    return 0


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for; what cannot be played is refused before anything is loaded."""
    parser = argparse.ArgumentParser(
        prog="python -m agent_evals.scientist.run", description=__doc__
    )
    parser.add_argument("what", choices=["planted", "embedded", "published"])
    parser.add_argument(
        "--checkout", type=Path, help="published: a checkout of the public repository, for its data"
    )
    parser.add_argument(
        "--model", default="", help="published: a folder of the model; default: from the hub"
    )
    parser.add_argument(
        "--saes", type=Path, help="published: a folder of the SAEs; default: from the hub"
    )
    parser.add_argument(
        "--players",
        nargs="+",
        default=["probe", "tools"],
        choices=[*PLAYERS],
        help="default: probe tools",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[*SEEDS], help="of planted worlds; default: 0 to 7"
    )
    parser.add_argument("--topics", type=int, default=8, help="of each planted world")
    parser.add_argument("--wishes", nargs="+", default=[], help="names of concepts; none: all")
    parser.add_argument("--out", type=Path, help="a file for every row as JSON")
    asked = parser.parse_args(given)
    if asked.what == "published" and not asked.checkout:
        parser.error("published needs --checkout, a folder with data/benchmark.json")
    if asked.what == "published" and set(asked.players) - {"live"}:
        parser.error("published shows no texts, so a scripted player has none: --players live")
    return asked


@contextmanager
def grounds(asked: argparse.Namespace) -> Generator[Iterable[Ground]]:
    """Worlds are made one after the other, in a folder that goes afterwards."""
    if asked.what == "embedded":
        yield [embedded_ground(asked.wishes)]
        return
    if asked.what == "published":
        found = published_grounds(asked.checkout, model=asked.model, saes=asked.saes)
        yield (chosen(ground, asked.wishes) for ground in found)
        return
    with tempfile.TemporaryDirectory(prefix="saescope-worlds-") as folder:
        yield (
            make_world(seed, Path(folder, str(seed)), n_topics=asked.topics) for seed in asked.seeds
        )


def chosen(ground: Ground, names: Sequence[str]) -> Ground:
    """With the wishes that are named, or all."""
    return replace(ground, wishes=[w for w in ground.wishes if not names or w.name in names])


async def play_all(
    found: Iterable[Ground], playing: dict[str, Scientist]
) -> dict[str, list[Played]]:
    played: dict[str, list[Played]] = {name: [] for name in playing}
    for ground in found:
        lab = lab_of(ground)
        for name, player in playing.items():
            began = time.monotonic()
            answers = await player(ground, ground.wishes)
            seconds = (time.monotonic() - began) / len(answers)
            for wish, answer in zip(ground.wishes, answers, strict=True):
                judged = judge_answer(lab, ground, wish, answer.feature)
                played[name].append(Played(ground, wish, answer, judged, seconds))
                print(f"{name:14} {ground.name} {line(played[name][-1])}", flush=True)
    return played


def line(row: Played) -> str:
    judged, hidden = row.judged, row.ground.hidden[row.wish.name]
    truth = f" (right: {hidden.expert})" if row.ground.knows else ""
    marks = "".join(
        mark
        for mark, holds in {
            "=": judged.exact,
            "C": judged.causal,
            "U": judged.usable,
        }.items()
        if holds
    )
    return (
        f"{row.wish.name:12} {judged.feature} {judged.kind}{truth} {marks} "
        f"activation {judged.activation:.0f} push {judged.push:.0f}; {row.answer.why}"
    )


def as_table(played: dict[str, list[Played]]) -> str:
    """A row of the table for each quantity, a column for each player."""
    columns = {name: summary(rows) for name, rows in played.items()}
    names = [*dict.fromkeys(name for column in columns.values() for name in column)]
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [
        f"| {name} | {' | '.join(column.get(name, '-') for column in columns.values())} |"
        for name in names
    ]
    return "\n".join(lines)


def summary(rows: Sequence[Played]) -> dict[str, str]:
    """What one player reached; shares with their 95 % intervals."""
    judged = [row.judged for row in rows]
    said: dict[str, str] = {"tasks": str(len(rows))}
    known = [row for row in rows if row.ground.knows]
    if known:
        good = [row for row in known if row.ground.hidden[row.wish.name].expert is not None]
        none = [row for row in known if row not in good]
        said["exact"] = str(share([bool(row.judged.exact) for row in known]))
        said["exact, where a feature is right"] = str(
            share([bool(row.judged.exact) for row in good])
        )
        said["none named, where none is right"] = str(
            share([row.judged.feature is None for row in none])
        )
        ranks = [row.judged.rank or 0.0 for row in good]
        said["Rank"] = f"{mean(ranks):.0f}" if ranks else "-"
    said["a feature named"] = str(share([one.feature is not None for one in judged]))
    said["Activation"] = f"{mean(one.activation for one in judged):.0f}"
    said["Push"] = f"{mean(one.push for one in judged):.0f}"
    if known:
        said["mean of the three"] = (
            f"{mean(overall(one.rank or 0.0, one.activation, one.push) for one in judged):.0f}"
        )
    said["causal"] = str(share([one.causal for one in judged]))
    said["usable"] = str(share([one.usable for one in judged]))
    said["seconds a task"] = f"{mean(row.seconds for row in rows):.1f}"
    return said


def wrong(rows: Sequence[Played]) -> str:
    """What was named instead of the right feature, by what it was planted as."""
    kinds = Counter(
        row.judged.kind.partition(":")[0] or ("none" if row.judged.feature is None else "filler")
        for row in rows
        if row.judged.exact is False
    )
    return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) or "nothing wrong"


def as_row(row: Played) -> dict[str, Any]:
    answer = {"why": row.answer.why, "n_calls": len(row.answer.calls)}
    return {"ground": row.ground.name, **asdict(row.judged), **answer, "seconds": row.seconds}


if __name__ == "__main__":
    raise SystemExit(main())
