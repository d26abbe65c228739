"""Published SAEs from a small Hugging Face hub on this machine: found, fetched once, then used without it; and every way to fail."""

import hashlib
import json
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download
from safetensors.torch import load_file

from saescope.cancel import cancellable
from saescope.errors import ArgumentError, Cancelled, NotFoundError, OfflineError, SaescopeError
from saescope.load import load_sae, peek_sae

STORED = Path(__file__).parents[1] / "data" / "saelens" / "legacy_standard"
REPO, COMMIT = "jbloom/GPT2-Small-SAEs-Reformatted", "a" * 40
SAE_ID, RELEASE = "blocks.1.hook_resid_pre", "gpt2-small-res-jb"
SECRET = "hf_" + "notForYourEyes"


@dataclass
class Hub:
    """What the hub holds and what it was asked."""

    endpoint: str
    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list[str])
    tokens: set[str] = field(default_factory=set[str])
    answer: int = 0
    """A status that every request gets instead; 0: the truth."""
    error: str = ""
    """The X-Error-Code beside it."""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        self.hub.tokens.add(self.headers.get("authorization", ""))
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        error = "RepoNotFound" if repo != REPO else "RevisionNotFound" if revision not in ("main", COMMIT) else ""
        error = error or ("EntryNotFound" if name not in self.hub.files else "")
        if self.hub.answer or error:
            self.send_response(self.hub.answer or 404)
            if code := self.hub.error if self.hub.answer else error:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.hub.files[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    handler = type("OneHub", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    stored = {f"{SAE_ID}/{name}": (STORED / name).read_bytes() for name in ("cfg.json", "sae_weights.safetensors")}
    handler.hub = Hub(f"http://127.0.0.1:{server.server_port}", stored)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    point_at(monkeypatch, handler.hub.endpoint, tmp_path / "cache")
    yield handler.hub
    server.shutdown()
    server.server_close()
    thread.join()


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """What HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN and no HF_HUB_OFFLINE do at the start of a process."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    for module in (constants, file_download):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub tries again five times, 23 s in all
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def load(**options: str | bool) -> object:
    return load_sae(**({"release": RELEASE, "sae_id": SAE_ID, "device": "cpu"} | options))  # pyright: ignore[reportArgumentType, reportCallIssue]


def refused(**options: str | bool) -> SaescopeError:
    with pytest.raises(SaescopeError) as caught:
        load(**options)
    error = caught.value
    told = [error.message, error.code, error.field, error.got, error.allowed, error.hint, repr(error), str(error.__cause__)]
    assert SECRET not in " ".join(told)
    return error


def test_a_release_is_fetched_and_is_the_published_sae(hub: Hub) -> None:
    said: list[str] = []
    sae = load_sae(release=RELEASE, sae_id=SAE_ID, device="cpu", progress=said.append)
    stored = load_file(STORED / "sae_weights.safetensors")
    assert all(torch.equal(sae.tensors()[name], stored[name]) for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    assert sae.cfg.metadata.hook_name == json.loads((STORED / "cfg.json").read_text())["hook_name"]
    # What the catalogue knows and the file does not say.
    assert sae.cfg.metadata.neuronpedia_id == "gpt2-small/1-res-jb" and sae.cfg.metadata.center_writing_weights
    assert any("sae_weights.safetensors" in line for line in said)
    assert f"Bearer {SECRET}" in hub.tokens


def test_once_fetched_it_works_offline(hub: Hub) -> None:
    online = load_sae(release=RELEASE, sae_id=SAE_ID, device="cpu")
    before = len(hub.asked)
    offline = load_sae(release=RELEASE, sae_id=SAE_ID, device="cpu", offline=True)
    assert len(hub.asked) == before and offline.weights_hash == online.weights_hash and offline.cfg == online.cfg
    assert peek_sae(release=RELEASE, sae_id=SAE_ID, offline=True).cfg == online.cfg


def test_once_fetched_it_works_with_the_hub_down(hub: Hub) -> None:
    load()
    hub.answer = 500
    assert load() is not None


def test_a_second_call_fetches_no_file_again(hub: Hub) -> None:
    load()
    load()
    assert sum(line.startswith("GET") and "sae_weights" in line for line in hub.asked) == 1


def test_a_repository_may_be_named_instead_of_a_release(hub: Hub) -> None:
    sae = load_sae(release=REPO, sae_id=SAE_ID, device="cpu")
    assert sae.cfg.metadata.neuronpedia_id == "tiny/1-res" and not sae.cfg.metadata.center_writing_weights


def test_a_revision_is_asked_for(hub: Hub) -> None:
    load(revision=COMMIT)
    assert all(f"/resolve/{COMMIT}/" in line for line in hub.asked)


def test_offline_and_not_cached_is_said_without_asking(hub: Hub) -> None:
    caught = refused(offline=True)
    assert isinstance(caught, OfflineError) and caught.code == "NOT_CACHED_OFFLINE" and caught.hint and hub.asked == []


@pytest.mark.parametrize(
    ("typo", "meant"), [("blocks.8.hook_resid_prs", "blocks.8.hook_resid_pre"), ("blocks.12.hook_resid_pre", "blocks.1.hook_resid_pre")]
)
def test_a_wrong_sae_id_names_the_nearest(hub: Hub, typo: str, meant: str) -> None:
    caught = refused(sae_id=typo)
    assert isinstance(caught, NotFoundError) and caught.code == "SAE_NOT_FOUND" and caught.got == typo
    assert meant in caught.allowed and "load_sae(release=" in caught.hint and hub.asked == []


@pytest.mark.parametrize("typo", ["gpt2-small-res", "gpt2-small-res-jbb", "GPT2-small-res-jb"])
def test_a_wrong_release_names_the_nearest(hub: Hub, typo: str) -> None:
    caught = refused(release=typo)
    assert caught.code == "RELEASE_NOT_FOUND" and RELEASE in caught.hint and hub.asked == []


def test_a_release_without_an_sae_id_says_what_is_missing(hub: Hub) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_sae(release=RELEASE)
    assert caught.value.code == "MISSING_ARGUMENT" and caught.value.field == "sae_id"


def test_a_path_and_a_release_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_sae(tmp_path, release=RELEASE, sae_id=SAE_ID)
    assert caught.value.field == "path"


@pytest.mark.parametrize(("status", "error"), [(0, ""), (401, "RepoNotFound"), (403, "GatedRepo")], ids=["unknown", "private", "gated"])
def test_a_repository_that_is_not_there_for_us_is_said(hub: Hub, status: int, error: str) -> None:
    hub.answer, hub.error = status, error
    caught = refused(release="nobody/nothing")
    assert isinstance(caught, NotFoundError) and caught.code == "SAE_NOT_FOUND" and "nobody/nothing" in caught.message
    assert "HF_TOKEN" in caught.hint


def test_an_unknown_revision_is_said(hub: Hub) -> None:
    caught = refused(revision="v99")
    assert isinstance(caught, NotFoundError) and caught.code == "REVISION_NOT_FOUND" and caught.got == "v99"


def test_a_file_that_the_repository_lacks_is_said(hub: Hub) -> None:
    del hub.files[f"{SAE_ID}/sae_weights.safetensors"]
    caught = refused()
    assert isinstance(caught, NotFoundError) and caught.code == "SAE_NOT_FOUND" and "sae_weights.safetensors" in caught.message


def test_a_name_that_no_repository_can_have_is_refused(hub: Hub) -> None:
    assert refused(release="no body/no thing").code == "INVALID_REPO_ID"


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_hub_in_trouble_is_said(hub: Hub, status: int) -> None:
    hub.answer = status
    caught = refused()
    assert isinstance(caught, OfflineError) and caught.code == "NOT_CACHED_OFFLINE" and REPO in caught.message


def test_a_hub_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path)  # the discard port: nobody listens
    caught = refused()
    assert isinstance(caught, OfflineError) and caught.code == "NOT_CACHED_OFFLINE" and "HF_ENDPOINT" in caught.hint


def test_a_cancelled_download_stops(hub: Hub) -> None:
    event = threading.Event()
    event.set()
    with cancellable(event), pytest.raises(Cancelled):
        load()
    assert hub.asked == []
