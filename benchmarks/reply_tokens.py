"""How many tokens the replies take that an agent reads: the calls of the references of
agent_evals/, tool by tool.

    python -m benchmarks.reply_tokens [--json FILE] [--against FILE] [task ...]

A token is counted as four UTF-8 bytes, without a tokenizer. What is counted is the text of each
result, and each poll of a job that is waited for. --json keeps the counts, --against prints them
beside those of an earlier run.
"""

import argparse
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import anyio
from agent_evals import play
from agent_evals.task import Task, load_tasks
from mcp import Client

BYTES_A_TOKEN = 4


class Counted(Client):
    """A client that counts what it is sent."""

    n_bytes: ClassVar[Counter[str]] = Counter()
    n_calls: ClassVar[Counter[str]] = Counter()

    async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result = await super().call_tool(name, *args, **kwargs)
        texts = [block.text for block in result.content if block.type == "text"]
        Counted.n_bytes[name] += sum(len(text.encode()) for text in texts)
        Counted.n_calls[name] += 1
        return result


@asynccontextmanager
async def _counting() -> AsyncGenerator[None]:
    usual, play.Client = play.Client, Counted  # pyright: ignore[reportPrivateImportUsage]
    try:
        yield
    finally:
        play.Client = usual  # pyright: ignore[reportPrivateImportUsage]


async def measure(tasks: list[Task]) -> dict[str, Any]:
    """Tokens and calls of every tool, over the references of these tasks."""
    async with _counting():
        for task in tasks:
            async with play.desk_of(task) as desk:
                await play.play_reference(task, desk)
    tokens = {tool: round(n / BYTES_A_TOKEN) for tool, n in Counted.n_bytes.most_common()}
    return {"tokens": tokens, "calls": dict(Counted.n_calls), "total": sum(tokens.values())}


def table(now: dict[str, Any], before: dict[str, Any] | None) -> str:
    """A row a tool: calls, tokens a call, and the tokens before."""
    rows = [f"{'tool':18}{'calls':>7}{'tokens':>9}{'a call':>8}{'before':>9}{'share':>7}"]
    for tool, n in [*now["tokens"].items(), ("total", now["total"])]:
        calls = now["calls"].get(tool, sum(now["calls"].values()))
        old = before and (before["tokens"] | {"total": before["total"]}).get(tool)
        beside = f"{old:>9,}{n / old:>7.2f}" if old else ""
        rows.append(f"{tool:18}{calls:>7}{n:>9,}{n / calls:>8.0f}{beside}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    tasks = [task for task in load_tasks(asked.tasks) if asked.tasks or task.model == "tiny"]
    now = anyio.run(measure, tasks)
    before = json.loads(asked.against.read_text(encoding="utf-8")) if asked.against else None
    print(table(now, before))
    if asked.json:
        asked.json.write_text(json.dumps(now, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
