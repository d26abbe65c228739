"""How long a ping waits while 16 callers keep the server busy with the embedded SAE: p50, p99 and the longest, in milliseconds."""

import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

CALLERS = 16
EVERY_S = 0.02
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "0"},
}
TEXT = "The trial began on a cold morning, and the jury listened to the first witness in silence. "


def mixed(sae: str) -> list[tuple[str, dict[str, Any]]]:
    """Calls of all kinds: most run the model, one only reads, one is refused."""
    return [
        ("top_features", {"sae": sae, "text": 8 * TEXT}),
        ("encode_text", {"sae": sae, "text": 4 * TEXT, "response_format": "detailed"}),
        ("attribute_logit", {"sae": sae, "prompt": TEXT}),
        ("intervene", {"sae": sae, "prompt": TEXT, "edits": [{"feature": 3, "mode": "ablate"}]}),
        ("describe_feature", {"sae": sae, "feature": 100}),
        ("find_features", {"sae": sae, "query": "law"}),
        ("find_saes", {"query": "gemma"}),
        ("server_status", {}),
        ("top_features", {"sae": sae, "text": 7}),
    ]


class Wire:
    """A server on stdio; each answer goes to the thread that waits for it."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-m", "saescope_mcp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ids, self.writing = itertools.count(1), threading.Lock()
        self.waiting: dict[int, tuple[threading.Event, dict[str, Any]]] = {}
        threading.Thread(target=self._read, daemon=True).start()
        self.ask("initialize", HELLO)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number, answered = next(self.ids), threading.Event()
        reply: dict[str, Any] = {}
        self.waiting[number] = answered, reply
        self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        if not answered.wait(120):
            raise TimeoutError(f"No answer to {method} within 120 s.")
        return reply

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.ask("tools/call", {"name": tool, "arguments": arguments})["result"]

    def _send(self, message: dict[str, Any]) -> None:
        assert self.server.stdin
        with self.writing:
            self.server.stdin.write(json.dumps(message) + "\n")
            self.server.stdin.flush()

    def _read(self) -> None:
        assert self.server.stdout
        for line in self.server.stdout:
            said = json.loads(line)
            if said.get("id") in self.waiting:
                answered, reply = self.waiting.pop(said["id"])
                reply.update(said)
                answered.set()


def pings(wire: Wire, seconds: float) -> list[float]:
    """Milliseconds of each ping."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        wire.ask("ping", {})
        found.append(1000 * (time.perf_counter() - start))
        time.sleep(EVERY_S)
    return found


def under_load(wire: Wire, seconds: float) -> tuple[list[float], int]:
    """Pings while the callers are at work, and how many calls were answered."""
    sae = wire.call("load_sae", {})["structuredContent"]["sae"]
    calls, over, done = mixed(sae), threading.Event(), itertools.count()

    def work(first: int) -> None:
        for tool, arguments in itertools.islice(itertools.cycle(calls), first, None):
            if over.is_set():
                return
            wire.call(tool, arguments)
            next(done)

    for tool, arguments in calls:
        wire.call(tool, arguments)  # what is imported or read once
    callers = [threading.Thread(target=work, args=(i,)) for i in range(CALLERS)]
    for caller in callers:
        caller.start()
    found = pings(wire, seconds)
    over.set()
    for caller in callers:
        caller.join()
    return found, next(done)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    wire = Wire()
    try:
        idle = pings(wire, 3)
        found, n_calls = under_load(wire, seconds)
    finally:
        wire.server.kill()
    for what, times in (("idle", idle), (f"{CALLERS} callers", found)):
        p99 = statistics.quantiles(times, n=100)[98]
        print(
            f"{what}: p50 {statistics.median(times):.1f} ms, p99 {p99:.1f} ms, longest {max(times):.1f} ms ({len(times)} pings)"
        )
    print(f"{n_calls} calls answered in {seconds:.0f} s")


if __name__ == "__main__":
    main()
