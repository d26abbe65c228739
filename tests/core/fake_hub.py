"""A Hugging Face hub on loopback, with a content server that large files are redirected to, and
faults on request."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.core.fake_uploads import answer_upload

LARGE = 10_000
"""Files from this size on are "LFS": named by sha256 and served by the content server."""


@dataclass
class Fault:
    """What happens instead, to the next `times` requests whose path contains `path`."""

    path: str
    method: str = "GET"
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    cut_after: int | None = None
    body: bytes | None = None
    pause_s: float = 0.0
    ignore_range: bool = False


@dataclass
class Request:
    server: str
    method: str
    path: str
    headers: dict[str, str]
    n_sent: int = 0


class FakeHub:
    """`repos[repo_id][commit][name]` is a file's content; `refs[repo_id][revision]` a commit."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.private: set[str] = set()
        self.uploaded: dict[str, bytes] = {}
        """Large files that were sent, by sha256."""
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._servers = [self._serve("hub"), self._serve("content")]
        hub, content = (server.server_address[1] for server in self._servers)
        self.url = f"http://127.0.0.1:{hub}"
        self.content_url = f"http://localhost:{content}"
        """On another host: a redirect within one is followed by huggingface-hub 1."""

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, repo_id: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """A new commit with these files; returns it."""
        commits = self.repos.setdefault(repo_id, {})
        commit = hashlib.sha1(f"{repo_id} {len(commits)}".encode()).hexdigest()
        commits[commit] = dict(files)
        self.refs.setdefault(repo_id, {})[revision] = commit
        return commit

    def add_folder(self, repo_id: str, folder: Path, path: str = "", revision: str = "main") -> str:
        prefix = f"{path}/" if path else ""
        files = {
            prefix + file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        return self.add(repo_id, files, revision)

    def fail(self, path: str, **kwargs: Any) -> Fault:
        self.faults.append(Fault(path, **kwargs))
        return self.faults[-1]

    def asked(self, path: str, method: str = "GET") -> list[Request]:
        return [
            request
            for request in self.requests
            if path in request.path and request.method == method
        ]

    def _serve(self, name: str) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _Answer(hub, name, self).give()

            def do_HEAD(self) -> None:
                _Answer(hub, name, self).give()

            def do_POST(self) -> None:
                _Answer(hub, name, self).give()

            def do_PUT(self) -> None:
                _Answer(hub, name, self).give()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(
            target=lambda: server.serve_forever(poll_interval=0.01), daemon=True
        ).start()
        return server


class _Answer:
    def __init__(self, hub: FakeHub, server: str, handler: BaseHTTPRequestHandler) -> None:
        self.hub, self.server, self.handler = hub, server, handler
        self.path = unquote(urlsplit(handler.path).path)
        self.request = Request(server, handler.command, handler.path, dict(handler.headers.items()))
        hub.requests.append(self.request)
        self.fault = self._fault()

    def give(self) -> None:
        try:
            if self.fault and self.fault.status:
                self._read_body()
                self._send(self.fault.status, b"no", dict(self.fault.headers))
            elif self.request.method in ("POST", "PUT"):
                status, reply = answer_upload(self.hub, self.path, self._read_body())
                self._send(status, json.dumps(reply).encode(), {"Content-Type": "application/json"})
            elif self.path.startswith("/api/models/"):
                self._describe(self.path.removeprefix("/api/models/"))
            elif self.server == "content":
                self._content(self._blob(self.path.rpartition("/")[2]))
            else:
                self._resolve()
        except (BrokenPipeError, ConnectionResetError):
            self.handler.close_connection = True

    def _fault(self) -> Fault | None:
        for fault in self.hub.faults:
            if (
                fault.times > 0
                and fault.path in self.request.path
                and fault.method == self.request.method
            ):
                fault.times -= 1
                return fault
        return None

    def _read_body(self) -> bytes:
        return self.handler.rfile.read(int(self.handler.headers.get("Content-Length") or 0))

    def _describe(self, path: str) -> None:
        repo_id, _, revision = path.partition("/revision/")
        if repo_id not in self.hub.repos:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        commit = self._commit(repo_id, revision or "main")
        if not commit:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in self.hub.repos[repo_id][commit]]
        said = {
            "id": repo_id,
            "sha": commit,
            "siblings": siblings,
            "private": repo_id in self.hub.private,
        }
        return self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _resolve(self) -> None:
        repo_id, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        commit = self._commit(repo_id, revision)
        if not commit:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit}
        content = self.hub.repos[repo_id][commit].get(name)
        if content is None:
            return self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
        if len(content) < LARGE:
            etag = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            return self._content(content, headers | {"ETag": f'"{etag}"'})
        sha = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
        return self._send(
            302,
            b"",
            headers | {"Location": f"{self.hub.content_url}/blobs/{sha}?X-Amz-Signature=sealed"},
        )

    def _commit(self, repo_id: str, revision: str) -> str:
        commits = self.hub.repos.get(repo_id, {})
        return revision if revision in commits else self.hub.refs.get(repo_id, {}).get(revision, "")

    def _blob(self, sha: str) -> bytes:
        files = (
            content
            for commits in self.hub.repos.values()
            for commit in commits.values()
            for content in commit.values()
        )
        return next(content for content in files if hashlib.sha256(content).hexdigest() == sha)

    def _content(self, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self.fault and self.fault.body is not None:
            content = self.fault.body
        wanted, status, more = self.handler.headers.get("Range"), 200, dict(headers or {})
        part = content
        if wanted and not (self.fault and self.fault.ignore_range):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(content)), len(content) - 1)
            if start >= len(content):
                return self._send(416, b"", more | {"Content-Range": f"bytes */{len(content)}"})
            part, status = content[start : end + 1], 206
            more["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self._send(status, part, more)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.handler.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | dict(headers)).items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        if self.request.method == "HEAD":
            return
        cut, pause = (self.fault.cut_after, self.fault.pause_s) if self.fault else (None, 0.0)
        sent = content if cut is None else content[:cut]
        for start in range(0, len(sent), 1 if pause else 1 << 16):
            part = sent[start : start + (1 if pause else 1 << 16)]
            self.handler.wfile.write(part)
            self.request.n_sent += len(part)
            time.sleep(pause)
        if cut is not None:
            self.handler.wfile.flush()
            self.handler.close_connection = True
