"""Neuronpedia on loopback: the routes that we use, in the shapes that its own source gives them
(snapshot of 2026-08-20), and faults."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.core.fake_hub import Fault, Request

HOSTILE = (
    "dogs\u202e \x1b[31mred\x1b[0m <script>alert(1)</script> "
    "![x](http://evil.example/p.png) \u200bIGNORE\ud83d"
)
RATE = {
    "endpoint": "/api",
    "limitPerWindow": 200,
    "requestWindow": "60 m",
    "remainingRequests": 0,
    "error": "Rate limit exceeded",
}


def neuron(feature: int, description: str = "dogs and puppies") -> dict[str, Any]:
    """The document of `GET /api/feature/{modelId}/{source}/{index}`, shortened."""
    return {
        "modelId": "gpt2-small",
        "layer": "8-res-jb",
        "index": str(feature),
        "sourceSetName": "res-jb",
        "maxActApprox": 22.735,
        "frac_nonzero": 0.00886,
        "hasVector": False,
        "vector": [],
        "hookName": "blocks.8.hook_resid_pre",
        "pos_str": [" dog", "<|endoftext|>", " bad"],
        "pos_values": [1.23, 1.1, None],
        "neg_str": [" cat"],
        "neg_values": [-0.99],
        "topkCosSimIndices": [feature, 77],
        "topkCosSimValues": [1.0, 0.61],
        "activations": [
            {
                "tokens": ["The", " puppy", " ran"],
                "values": [0, 3.5, 0.25],
                "maxValue": 3.5,
                "maxValueTokenIndex": 1,
            },
            {
                "tokens": [" a", " dog"],
                "values": [0, 9.0],
                "maxValue": 9.0,
                "maxValueTokenIndex": 1,
            },
            {"tokens": ["torn"], "values": [1, 2]},
        ],
        "explanations": [
            {
                "id": "a",
                "description": description,
                "explanationModelName": "gpt-4o-mini",
                "typeName": "oai_token-act-pair",
                "scores": [],
            },
            {
                "id": "b",
                "description": "words for young dogs",
                "explanationModelName": "claude-4",
                "typeName": "np_max-act",
                "scores": [{"id": "s", "value": 0.91, "explanationScoreTypeName": "eleuther_fuzz"}],
            },
        ],
        "comments": [],
        "lists": [],
    }


class FakeNeuronpedia:
    """Features 0 to 999 of gpt2-small/8-res-jb."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.bodies: list[Any] = []
        self.description = "dogs and puppies"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=0.01), daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, path: str = "/", **kwargs: Any) -> None:
        for method in ("GET", "POST"):
            self.faults.append(Fault(path, method=method, **kwargs))

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET" and path.startswith("/api/feature/gpt2-small/8-res-jb/"):
            feature = int(path.rpartition("/")[2])
            return (
                (200, neuron(feature, self.description))
                if feature < 1000
                else (404, {"error": "Feature not found"})
            )
        if path == "/api/features":
            wanted = [
                item["index"]
                for item in body
                if item["modelId"] == "gpt2-small" and item["layer"] == "8-res-jb"
            ]
            return 200, [
                neuron(feature, self.description) for feature in reversed(wanted) if feature < 1000
            ]
        if path == "/api/explanation/search":
            return 200, {
                "request": body,
                "results": [self._hit(200, 0.83), self._hit(31, 0.5)],
                "resultsCount": 2,
                "hasMore": False,
            }
        return 404, {"error": "Not Found"}

    def _hit(self, feature: int, cosine: float) -> dict[str, Any]:
        label = {
            "description": self.description,
            "explanationModelName": "gpt-4o-mini",
            "typeName": "oai_token-act-pair",
        }
        return label | {
            "modelId": "gpt2-small",
            "layer": "8-res-jb",
            "index": str(feature),
            "cosine_similarity": cosine,
            "neuron": {},
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.handle(self)

            def do_POST(self) -> None:
                fake.handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else None
        self.requests.append(
            Request("neuronpedia", handler.command, handler.path, dict(handler.headers.items()))
        )
        self.bodies.append(body)
        fault = self._fault(handler)
        try:
            status, said = self.answer(handler.command, handler.path, body)
        except KeyError:
            status, said = 500, {"message": "Unknown Error"}
        content = json.dumps(said).encode()
        if fault:
            status, content = fault.status or status, content if fault.body is None else fault.body
        self._send(handler, status, content, fault)

    def _fault(self, handler: BaseHTTPRequestHandler) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.path in handler.path and fault.method == handler.command:
                fault.times -= 1
                return fault
        return None

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, content: bytes, fault: Fault | None
    ) -> None:
        try:
            handler.send_response(status)
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                "x-limit-remaining": "24999",
            }
            for name, value in (headers | dict(fault.headers if fault else {})).items():
                handler.send_header(name, value)
            handler.end_headers()
            cut = len(content) if fault is None or fault.cut_after is None else fault.cut_after
            step = 1 if fault and fault.pause_s else 1 << 16
            for start in range(0, cut, step):
                handler.wfile.write(content[start : min(start + step, cut)])
                time.sleep(fault.pause_s if fault else 0)
            handler.close_connection |= cut < len(content)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
