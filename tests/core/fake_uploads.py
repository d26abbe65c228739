"""The writing side of the fake hub: a repository is made, large files are sent to the content
server, a commit names them."""

import base64
import hashlib
import json
from typing import Any, Protocol

LARGE = 10_000


class Hub(Protocol):
    repos: dict[str, dict[str, dict[str, bytes]]]
    refs: dict[str, dict[str, str]]
    private: set[str]
    uploaded: dict[str, bytes]
    url: str
    content_url: str

    def add(self, repo_id: str, files: dict[str, bytes], revision: str = "main") -> str: ...


def answer_upload(hub: Any, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Status and reply to a POST or PUT."""
    if path.startswith("/blobs/"):
        hub.uploaded[hashlib.sha256(body).hexdigest()] = body
        return 200, {}
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if path == "/api/repos/create":
        return _create(hub, json.loads(body))
    if path.endswith(".git/info/lfs/objects/batch"):
        return 200, {
            "transfer": "basic",
            "objects": [_upload(hub, each) for each in json.loads(body)["objects"]],
        }
    repo_id, _, action = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
    if action == "preupload":
        files = json.loads(body)["files"]
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["size"] >= LARGE else "regular",
                "shouldIgnore": False,
            }
            for f in files
        ]
        return 200, {"files": modes}
    return _commit(hub, repo_id, [json.loads(line) for line in body.splitlines()])


def _create(hub: Hub, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    repo_id = (
        f"{asked['organization']}/{asked['name']}"
        if asked.get("organization")
        else f"someone/{asked['name']}"
    )
    if repo_id in hub.repos:
        return 409, {"error": "You already created this model repo", "url": repo_id}
    if asked.get("private") or asked.get("visibility") == "private":
        hub.private.add(repo_id)
    hub.add(repo_id, {".gitattributes": b""})
    return 200, {"url": f"{hub.url}/{repo_id}", "name": repo_id}


def _upload(hub: Hub, each: dict[str, Any]) -> dict[str, Any]:
    return {
        "oid": each["oid"],
        "size": each["size"],
        "actions": {"upload": {"href": f"{hub.content_url}/blobs/{each['oid']}"}},
    }


def _commit(hub: Hub, repo_id: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    header, *operations = lines
    head = hub.refs[repo_id]["main"]
    if header["value"].get("parentCommit", head) != head:
        return 412, {"error": "A commit has happened since. Please refresh and try again."}
    files = dict(hub.repos[repo_id][head])
    for operation in operations:
        value = operation["value"]
        files[value["path"]] = (
            base64.b64decode(value["content"])
            if operation["key"] == "file"
            else hub.uploaded[value["oid"]]
        )
    commit = hub.add(repo_id, files)
    return 200, {
        "success": True,
        "commitOid": commit,
        "commitUrl": f"{hub.url}/{repo_id}/commit/{commit}",
    }
