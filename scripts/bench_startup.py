"""How long `saescope serve` takes from process start to `tools/list`, against a bare server of the
same SDK; medians, taken in turns."""

import json
import statistics
import subprocess
import sys
import time

RUNS = 7
MOST_S, MOST_RATIO = 1.5, 1.3
BARE = "from mcp.server import MCPServer; MCPServer('bare').run()"
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "0"},
}
MESSAGES: list[dict[str, object]] = [
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}},
]


def seconds_to_tools(*command: str) -> float:
    """From the start of the process to its answer to `tools/list`."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin and server.stdout
        server.stdin.write("".join(json.dumps(message) + "\n" for message in MESSAGES))
        server.stdin.flush()
        answered = any(json.loads(line).get("id") == 2 for line in server.stdout)
        elapsed = time.perf_counter() - start
        server.stdin.close()
    assert answered, f"{command} ended without an answer to tools/list"
    return elapsed


def main() -> None:
    ours, bare = [sys.executable, "-m", "saescope_mcp"], [sys.executable, "-c", BARE]
    for command in (ours, bare):
        seconds_to_tools(*command)  # once, so that both read warm files
    pairs = [(seconds_to_tools(*ours), seconds_to_tools(*bare)) for _ in range(RUNS)]
    own, base = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    print(
        f"saescope serve: {own:.2f} s to tools/list; a bare server: {base:.2f} s; "
        f"ratio {own / base:.2f} ({RUNS} runs each)"
    )
    if own > MOST_S or own / base > MOST_RATIO:
        sys.exit(
            f"Above the limit of {MOST_S} s or {MOST_RATIO} times a bare server (on an "
            "idle machine)."
        )


if __name__ == "__main__":
    main()
