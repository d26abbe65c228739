"""A server's stdin and stdout, passed on and written down, so that what an agent saw is judged:
`python -m agent_evals.record TRACE COMMAND`."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from agent_evals.transcript import Call


def main() -> int:
    trace, *command = sys.argv[1:]
    with (
        Path(trace).open("a", encoding="utf-8") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server,
    ):
        assert server.stdin and server.stdout
        threading.Thread(
            target=_pass_on, args=(sys.stdin.buffer, server.stdin, log), daemon=True
        ).start()
        _pass_on(server.stdout, sys.stdout.buffer, log)
        return server.wait()


def _pass_on(lines: Iterable[bytes], out: IO[bytes], log: IO[str]) -> None:
    for line in lines:
        log.write(line.decode("utf-8", "replace"))
        log.flush()
        out.write(line)
        out.flush()
    out.close()


def calls_of(trace: Path) -> list[Call]:
    """Every tool call that was answered, in the order of the answers."""
    asked: dict[Any, dict[str, Any]] = {}
    calls: list[Call] = []
    for line in trace.read_text(encoding="utf-8").splitlines() if trace.is_file() else []:
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "tools/call":
            asked[message["id"]] = message["params"]
        elif message.get("id") in asked and "result" in message:
            said, result = asked.pop(message["id"]), message["result"]
            calls.append(
                Call(
                    said["name"],
                    said.get("arguments") or {},
                    result.get("structuredContent") or {},
                    bool(result.get("isError")),
                )
            )
    return calls


if __name__ == "__main__":
    raise SystemExit(main())
