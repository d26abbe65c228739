"""What a command costs beside its work: `saescope encode-text` alone, through `saescope warm`, and
the same call in a process that has everything in memory; medians, in turns.

    python benchmarks/warm.py  # numbers go to docs/log.md, with the date
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

RUNS = 5
TEXT = "My sister lost her keys and called our mother."
COMMAND = [sys.executable, "-m", "saescope_mcp.cli", "encode-text", "--text", TEXT, "--json"]
WARM = [sys.executable, "-m", "saescope_mcp.cli", "warm"]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def command() -> str:
    return subprocess.run(COMMAND, capture_output=True, text=True, check=True).stdout


def kept_call() -> Callable[[], object]:
    """The call of the command, in this process, on a model and an SAE that are loaded."""
    import anyio

    from saescope_mcp.cli.calls import answer, person_settings
    from saescope_mcp.cli.keeping import TOOLS
    from saescope_mcp.state import AppState

    state = AppState(person_settings())

    async def call() -> object:
        return await answer(state, TOOLS["encode_text"], {"text": TEXT}, {}, lambda said: None)

    anyio.run(call)
    return lambda: anyio.run(call)


def overheads(runs: int) -> list[float]:
    """The seconds that a command takes through the warm process beyond the call by itself."""
    expected, call = json.loads(command()), kept_call()
    call()
    with subprocess.Popen(WARM, stderr=subprocess.PIPE, text=True) as warm:
        assert warm.stderr is not None
        try:
            assert any("is in memory" in line for line in warm.stderr)
            assert json.loads(command()) == expected
            return [seconds(command) - seconds(call) for _ in range(runs)]
        finally:
            warm.kill()


def main() -> None:
    alone = statistics.median(seconds(command) for _ in range(RUNS))
    found = overheads(RUNS)
    print(
        f"alone {alone:.2f} s; through saescope warm {statistics.median(found):.2f} s beside the "
        f"call by itself ({min(found):.2f} to {max(found):.2f}, {RUNS} runs each)"
    )


if __name__ == "__main__":
    main()
