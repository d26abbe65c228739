"""How long a ping waits while 16 callers keep the server busy with the embedded SAE: p50, p99 and
the longest, in milliseconds.

`ping.py [seconds]` measures on stdio and then over HTTP, where every caller has a session of its
own.
"""

import http.client
import itertools
import json
import socket
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


class Http:
    """A server on loopback; each thread that asks has a session and a connection of its own."""

    def __init__(self) -> None:
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            self.port = trial.getsockname()[1]
        command = [sys.executable, "-m", "saescope_mcp", "--http", "--port", str(self.port)]
        self.server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.ids, self.own = itertools.count(1), threading.local()
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.1)

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if not hasattr(self.own, "line"):
            self.own.line, self.own.session = (
                http.client.HTTPConnection("127.0.0.1", self.port, timeout=120),
                {},
            )
            self._post({"method": "initialize", "params": HELLO, "id": next(self.ids)})
            self._post({"method": "notifications/initialized"})
        said = self._post({"method": method, "params": params, "id": next(self.ids)})
        return next(json.loads(line[5:]) for line in said.splitlines() if '"jsonrpc"' in line)

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.ask("tools/call", {"name": tool, "arguments": arguments})["result"]

    def _post(self, message: dict[str, Any]) -> str:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": HELLO["protocolVersion"],
            **self.own.session,
        }
        self.own.line.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", **message}), headers)
        reply = self.own.line.getresponse()
        if session := reply.getheader("Mcp-Session-Id"):
            self.own.session = {"Mcp-Session-Id": session}
        return reply.read().decode()


def pings(wire: Wire | Http, seconds: float) -> list[float]:
    """Milliseconds of each ping."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        wire.ask("ping", {})
        found.append(1000 * (time.perf_counter() - start))
        time.sleep(EVERY_S)
    return found


def under_load(wire: Wire | Http, seconds: float) -> tuple[list[float], int]:
    """Pings while the callers are at work, and how many calls were answered."""
    sae = None
    while sae is None:
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


def measure(kind: type[Wire | Http], seconds: float) -> None:
    wire = kind()
    try:
        idle = pings(wire, 3)
        found, n_calls = under_load(wire, seconds)
    finally:
        wire.server.kill()
    for what, times in (("idle", idle), (f"{CALLERS} callers", found)):
        p99 = statistics.quantiles(times, n=100)[98]
        p50, longest = statistics.median(times), max(times)
        print(f"{kind.__name__}, {what}: p50 {p50:.1f} ms, p99 {p99:.1f}, longest {longest:.1f}")
    print(f"{n_calls} calls answered in {seconds:.0f} s")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    for kind in (Wire, Http):
        measure(kind, seconds)


if __name__ == "__main__":
    main()
