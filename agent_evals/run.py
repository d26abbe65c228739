"""Play the tasks and say how they went: `python -m agent_evals.run` by the reference, with
--command or --url by a live agent."""

import argparse
import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import anyio

from agent_evals import agents
from agent_evals.play import Player, Verdict, play, play_reference
from agent_evals.task import Task, load_tasks


def main() -> int:
    asked = _arguments()
    tasks = [
        task
        for task in load_tasks(asked.tasks)
        if asked.tasks or asked.embedded or task.model == "tiny"
    ]
    if asked.list:
        for task in tasks:
            print(f"{task.name:32} {task.trap}")
        return 0
    verdicts = anyio.run(_play_all, tasks, _player(asked), asked.log)
    passed = sum(not verdict.faults for verdict in verdicts)
    kinds = Counter(fault.kind for verdict in verdicts for fault in verdict.faults)
    tokens = sum(verdict.transcript.n_tokens for verdict in verdicts)
    print(
        f"{passed} of {len(verdicts)} tasks; {tokens:,} tokens of calls and "
        f"results{'; ' if kinds else ''}" + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    )
    return int(passed < len(verdicts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m agent_evals.run", description=__doc__)
    parser.add_argument("tasks", nargs="*", help="names of tasks; none: all")
    parser.add_argument("--list", action="store_true", help="only name the tasks and their traps")
    parser.add_argument(
        "--embedded", action="store_true", help="also those on the embedded 135M model"
    )
    parser.add_argument(
        "--command",
        default=os.environ.get("SAESCOPE_EVAL_COMMAND", ""),
        help=f'a live agent, or "claude" for: {agents.CLAUDE}',
    )
    parser.add_argument(
        "--url",
        default=os.environ.get("SAESCOPE_EVAL_URL", ""),
        help="an endpoint of OpenAI's chat protocol, e.g. http://localhost:8000/v1",
    )
    parser.add_argument(
        "--model",
        default=os.environ.get("SAESCOPE_EVAL_MODEL", ""),
        help="the endpoint's model; its key is read from SAESCOPE_EVAL_KEY",
    )
    parser.add_argument("--log", type=Path, help="a folder for the transcripts")
    return parser.parse_args()


def _said(name: str) -> str:
    return os.environ.get(f"SAESCOPE_EVAL_{name}", "")


def _player(asked: argparse.Namespace) -> Player:
    if asked.command:
        return agents.command(agents.CLAUDE if asked.command == "claude" else asked.command)
    if asked.url:
        return agents.endpoint(asked.url, asked.model, _said("KEY"))
    return play_reference


async def _play_all(tasks: list[Task], player: Player, log: Path | None) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for task in tasks:
        verdicts.append(verdict := await play(task, player))
        print(
            f"{'FAIL' if verdict.faults else 'ok  '} {task.name:32} "
            f"{verdict.transcript.n_tokens:6,} tokens",
            flush=True,
        )
        for fault in verdict.faults:
            print(f"     {fault.kind}: {fault.text}", flush=True)
        if log:
            log.mkdir(parents=True, exist_ok=True)
            (log / f"{task.name}.json").write_text(
                json.dumps(asdict(verdict.transcript), indent=1, ensure_ascii=False),
                encoding="utf-8",
            )
    return verdicts


if __name__ == "__main__":
    raise SystemExit(main())
