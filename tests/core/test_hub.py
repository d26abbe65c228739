"""The hub: real HTTP on loopback and the real huggingface_hub client, against every way in which a
network fails."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from tests.core.fake_hub import FakeHub

from saescope import hub
from saescope.cancel import cancellable
from saescope.catalogue import hub_cache
from saescope.errors import (
    ArgumentError,
    Cancelled,
    ConfigError,
    FormatError,
    NotFoundError,
    OfflineError,
    ResourceError,
    SaescopeError,
)
from saescope.hub import download, transfer
from saescope.load import load_sae, peek_sae
from saescope.saes import SAE, StandardConfig, StandardSAE

DATA = Path(__file__).parents[1] / "data" / "saelens"
REPO = "someone/saes"
TOKEN = "hf_" + "s3cretS3cretS3cretS3cret"
WEIGHTS = "sae_weights.safetensors"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    import huggingface_hub.constants
    from huggingface_hub.utils import close_session

    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name, value in {
        "HF_ENDPOINT": fake.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.01)
    close_session()
    yield fake
    close_session()
    fake.close()


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SAE of 4.2 MB in SAELens's format."""
    torch.manual_seed(0)
    shapes = StandardSAE.shapes(StandardConfig(architecture="standard", d_in=256, d_sae=2048))
    cfg = StandardConfig(architecture="standard", d_in=256, d_sae=2048)
    sae = StandardSAE(cfg, {name: torch.randn(shape) for name, shape in shapes.items()})
    return sae.save(tmp_path_factory.mktemp("big"))


def same(one: SAE, other: SAE) -> bool:
    return one.weights_hash == other.weights_hash


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(SaescopeError) as caught:
        call()
    text = (
        f"{caught.value} {caught.value.hint} {caught.value.got} {caught.value.__cause__} "
        f"{caught.value.__dict__}"
    )
    assert TOKEN not in text and "sealed" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.code


def test_a_sub_folder_of_any_repository_loads_as_the_folder_does(fake: FakeHub) -> None:
    commit = fake.add_folder(REPO, DATA, "some/where")
    for case in ("standard", "topk", "jumprelu", "legacy_gated"):
        sae = load_sae(release=REPO, sae_id=f"some/where/{case}", device="cpu")
        assert same(sae, load_sae(DATA / case, device="cpu"))
        assert sae.cfg.metadata.raw["source"] == {
            "repo_id": REPO, "path": f"some/where/{case}", "revision": commit, "dialect": "sae_lens"
        }  # fmt: skip


def test_the_root_of_a_repository_needs_no_sae_id(fake: FakeHub) -> None:
    fake.add_folder(REPO, DATA / "standard")
    assert same(load_sae(release=REPO, device="cpu"), load_sae(DATA / "standard", device="cpu"))


def test_peeking_fetches_no_weights(fake: FakeHub, big: Path) -> None:
    commit = fake.add_folder(REPO, big)
    info = peek_sae(release=REPO)
    assert (info.cfg.d_sae, info.dialect, info.repo_id, info.revision) == (
        2048,
        "sae_lens",
        REPO,
        commit,
    )
    assert info.weights_bytes == load_sae(big, device="cpu").weights_bytes
    assert (
        sum(request.n_sent for request in fake.requests if request.server == "content")
        <= transfer.HEAD_BYTES
    )
    assert not hub_cache().exists()


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    peek_sae(release=REPO)
    load_sae(release=REPO, device="cpu")
    token = {
        server: {
            "Authorization" in r.headers or "authorization" in r.headers
            for r in fake.requests
            if r.server == server
        }
        for server in ("hub", "content")
    }
    assert token == {"hub": {True}, "content": {False}}


def test_a_download_that_is_cut_goes_on_where_it_stopped(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    fake.fail("/blobs/", times=3, cut_after=1_200_000)
    assert hub.repository(REPO).local(WEIGHTS).read_bytes() == (big / WEIGHTS).read_bytes()
    starts = [
        int(r.headers["Range"].removeprefix("bytes=").split("-")[0]) for r in fake.asked("/blobs/")
    ]
    assert starts[0] == 0 and starts == sorted(starts) and len(set(starts)) == 4
    assert sum(r.n_sent for r in fake.asked("/blobs/")) == (big / WEIGHTS).stat().st_size


def test_a_later_process_resumes_what_an_earlier_one_left(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    peek_sae(release=REPO)
    fake.fail("/blobs/", times=99, cut_after=300_000)
    assert code_of(lambda: load_sae(release=REPO, device="cpu")) == "NOT_CACHED_OFFLINE"
    (part,) = hub_cache().rglob("*.incomplete")
    kept = part.stat().st_size
    assert 0 < kept < (big / WEIGHTS).stat().st_size
    fake.faults.clear()
    fake.requests.clear()
    assert same(load_sae(release=REPO, device="cpu"), load_sae(big, device="cpu"))
    assert any(r.headers.get("Range") == f"bytes={kept}-" for r in fake.asked("/blobs/"))
    assert not [*hub_cache().rglob("*.incomplete")]


def test_a_damaged_leftover_is_fetched_anew(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    fake.fail("/blobs/", times=99, cut_after=300_000)
    code_of(lambda: hub.repository(REPO).local(WEIGHTS))
    (part,) = hub_cache().rglob("*.incomplete")
    part.write_bytes(b"x" * part.stat().st_size)
    fake.faults.clear()
    assert hub.repository(REPO).local(WEIGHTS).read_bytes() == (big / WEIGHTS).read_bytes()


def test_a_server_that_ignores_ranges_is_read_from_the_start(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    fake.fail("/blobs/", cut_after=1_500_000)
    fake.fail("/blobs/", times=99, ignore_range=True)
    assert hub.repository(REPO).local(WEIGHTS).read_bytes() == (big / WEIGHTS).read_bytes()
    assert peek_sae(release=REPO).cfg.d_sae == 2048


def test_peeking_works_where_ranges_are_ignored(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    fake.fail("/", times=99, ignore_range=True)
    assert peek_sae(release=REPO).cfg.d_sae == 2048


@pytest.mark.parametrize("name", [WEIGHTS, "cfg.json"])
def test_wrong_bytes_of_the_right_size_are_never_used(fake: FakeHub, big: Path, name: str) -> None:
    fake.add_folder(REPO, big)
    right = (big / name).read_bytes()
    fake.fail(
        "/blobs/" if name == WEIGHTS else name,
        times=99,
        body=right[:-3] + bytes(b ^ 1 for b in right[-3:]),
    )
    assert code_of(lambda: hub.repository(REPO).local(name)) == "HASH_MISMATCH"
    assert not [
        file
        for file in hub_cache().rglob("*")
        if file.is_file() and not file.name.endswith(".lock")
    ]
    fake.faults.clear()
    assert hub.repository(REPO).local(name).read_bytes() == right


def test_more_or_fewer_bytes_than_promised_are_never_used(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    right = (big / WEIGHTS).read_bytes()
    fake.fail("/blobs/", times=99, body=right + b"more", ignore_range=True)
    assert hub.repository(REPO).local(WEIGHTS).read_bytes() == right
    fake.faults.clear()
    fake.add("someone/short", {WEIGHTS: right[::-1]})
    fake.fail("/blobs/", times=99, body=right[:-9], ignore_range=True)
    assert code_of(lambda: hub.repository("someone/short").local(WEIGHTS)) == "NOT_CACHED_OFFLINE"


@pytest.mark.parametrize(
    ("status", "error_code", "expected", "kind"),
    [
        (401, "RepoNotFound", "REPO_NOT_FOUND", NotFoundError),
        (401, "", "HUB_ACCESS_DENIED", NotFoundError),
        (403, "", "HUB_ACCESS_DENIED", NotFoundError),
        (403, "GatedRepo", "REPO_GATED", NotFoundError),
        (404, "RepoNotFound", "REPO_NOT_FOUND", NotFoundError),
        (404, "RevisionNotFound", "REVISION_NOT_FOUND", NotFoundError),
        (429, "", "HUB_RATE_LIMITED", OfflineError),
        (500, "", "HUB_UNAVAILABLE", OfflineError),
        (503, "", "HUB_UNAVAILABLE", OfflineError),
    ],
)
def test_every_refusal_has_its_code_and_a_next_step(
    fake: FakeHub, status: int, error_code: str, expected: str, kind: type[Exception]
) -> None:
    fake.add_folder(REPO, DATA / "standard")
    fake.fail(
        "/api/", times=99, status=status, headers={"X-Error-Code": error_code} if error_code else {}
    )
    with pytest.raises(kind) as caught:
        load_sae(release=REPO)
    assert getattr(caught.value, "code") == expected and getattr(caught.value, "hint")  # noqa: B009


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_refusals_of_a_file_have_codes_too(fake: FakeHub, big: Path, status: int) -> None:
    fake.add_folder(REPO, big)
    expected = {
        403: "HUB_ACCESS_DENIED",
        404: "REPO_NOT_FOUND",
        429: "HUB_RATE_LIMITED",
        500: "HUB_UNAVAILABLE",
    }[status]
    fake.fail("/resolve/", times=99, status=status)
    assert code_of(lambda: peek_sae(release=REPO)) == expected
    fake.faults.clear()
    fake.fail("/blobs/", times=99, status=status)
    assert code_of(lambda: hub.repository(REPO).local(WEIGHTS)) == expected
    fake.faults.clear()
    fake.fail("/resolve/", times=99, method="HEAD", status=status)
    assert code_of(lambda: hub.repository(REPO).local(WEIGHTS)) == expected


def test_a_hub_that_recovers_is_not_an_error(fake: FakeHub) -> None:
    fake.add_folder(REPO, DATA / "standard")
    fake.fail("/api/", times=2, status=500)
    fake.fail(WEIGHTS, times=1, status=429, headers={"Retry-After": "0"})
    fake.fail(WEIGHTS, method="HEAD", times=2, status=503)
    assert same(load_sae(release=REPO, device="cpu"), load_sae(DATA / "standard", device="cpu"))


def test_a_download_that_crawls_ends_with_a_code(
    fake: FakeHub, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add_folder(REPO, big)
    monkeypatch.setattr(transfer, "STALL_S", 0.2)
    fake.fail("/blobs/", times=99, pause_s=0.02)
    assert code_of(lambda: hub.repository(REPO).local(WEIGHTS)) == "NOT_CACHED_OFFLINE"


def test_a_server_that_says_nothing_ends_with_a_code(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(transfer, "TIMEOUT_S", 0.2)
        assert code_of(lambda: load_sae(release=REPO)) == "NOT_CACHED_OFFLINE"


def test_offline_from_a_filled_cache_opens_no_socket(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add_folder(REPO, DATA, "x")
    online = load_sae(release=REPO, sae_id="x/topk", device="cpu")
    _block_sockets(monkeypatch)
    offline = load_sae(release=REPO, sae_id="x/topk", device="cpu", offline=True)
    assert same(online, offline) and offline.cfg == online.cfg
    assert peek_sae(release=REPO, sae_id="x/topk", offline=True).cfg == online.cfg
    assert code_of(lambda: load_sae(release=REPO, sae_id="x/gated", offline=True)) in (
        "SAE_NOT_FOUND",
        "NOT_CACHED_OFFLINE",
    )
    assert code_of(lambda: load_sae(release="someone/else", offline=True)) == "NOT_CACHED_OFFLINE"


def test_offline_by_the_environment_opens_no_socket(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    fake.add_folder(REPO, DATA / "topk")
    online = load_sae(release=REPO, device="cpu")
    _block_sockets(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert same(online, load_sae(release=REPO, device="cpu"))


def _block_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_an_unreachable_hub_leaves_the_cache_and_says_so(fake: FakeHub) -> None:
    fake.add_folder(REPO, DATA / "topk")
    online = load_sae(release=REPO, device="cpu")
    fake.fail("/", times=999, status=503)
    said: list[str] = []
    assert same(online, load_sae(release=REPO, device="cpu", progress=said.append))
    assert any("cached" in line for line in said)


def test_a_revision_is_pinned_to_its_commit(fake: FakeHub) -> None:
    old = fake.add_folder(REPO, DATA / "topk")
    first = load_sae(release=REPO, device="cpu")
    new = fake.add_folder(REPO, DATA / "gated")
    fake.refs[REPO]["v1"] = old
    assert first.cfg.metadata.raw["source"]["revision"] == old
    assert load_sae(release=REPO, device="cpu").cfg.metadata.raw["source"]["revision"] == new
    for revision in (old, "v1"):
        pinned = load_sae(release=REPO, device="cpu", revision=revision)
        assert same(pinned, first) and pinned.cfg.metadata.raw["source"]["revision"] == old
        assert same(load_sae(release=REPO, device="cpu", revision=revision, offline=True), first)
    assert code_of(lambda: load_sae(release=REPO, revision="v2")) == "REVISION_NOT_FOUND"
    assert (
        code_of(lambda: load_sae(release=REPO, revision="v2", offline=True)) == "NOT_CACHED_OFFLINE"
    )


def test_a_file_that_rotted_in_the_cache_is_found_out(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    load_sae(release=REPO, device="cpu")
    path = hub.repository(REPO).local(WEIGHTS).resolve()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    assert code_of(lambda: load_sae(release=REPO, device="cpu", offline=True)) == "HASH_MISMATCH"
    assert code_of(lambda: load_sae(release=REPO, device="cpu")) == "HASH_MISMATCH"
    assert same(load_sae(release=REPO, device="cpu"), load_sae(big, device="cpu"))


def test_progress_counts_bytes(fake: FakeHub, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.add_folder(REPO, big)
    monkeypatch.setattr(download, "_PROGRESS_S", 0.0)
    said: list[str] = []
    load_sae(release=REPO, device="cpu", progress=said.append)
    assert any(
        line.startswith(f"{REPO}/{WEIGHTS}: ") and line.endswith(" of 4.2 MB") for line in said
    ), said
    assert said[-1].endswith("verified")


def test_cancelling_stops_a_download_and_keeps_its_part(
    fake: FakeHub, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add_folder(REPO, big)
    monkeypatch.setattr(download, "_PROGRESS_S", 0.0)
    stop = threading.Event()

    def say(line: str) -> None:
        if WEIGHTS in line:
            stop.set()

    with cancellable(stop), pytest.raises(Cancelled):
        load_sae(release=REPO, device="cpu", progress=say)
    assert [*hub_cache().rglob("*.incomplete")]
    assert same(load_sae(release=REPO, device="cpu"), load_sae(big, device="cpu"))


def test_two_at_once_share_one_download(fake: FakeHub, big: Path) -> None:
    fake.add_folder(REPO, big)
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(load_sae(release=REPO, device="cpu").weights_hash)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [load_sae(big, device="cpu").weights_hash] * 4
    assert sum(r.n_sent > 1 << 20 for r in fake.asked("/blobs/")) == 1


def test_a_full_disk_is_said_before_the_download(
    fake: FakeHub, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add_folder(REPO, big)
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})()
    )
    with pytest.raises(ResourceError) as caught:
        hub.repository(REPO).local(WEIGHTS)
    assert caught.value.code == "DISK_FULL" and "4.2 MB" in str(caught.value)


@pytest.mark.parametrize(
    "sae_id", ["../x", "a/../../x", "/etc/passwd/..", "a\\b", "C:/x", "a\x00b", "./x"]
)
def test_a_path_that_leaves_the_repository_is_refused(fake: FakeHub, sae_id: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_sae(release=REPO, sae_id=sae_id)
    assert caught.value.code == "INVALID_PATH" and not fake.requests


@pytest.mark.parametrize(
    "repo_id", ["a/b/c", "../b", "a/..", "http://x/y", "a/b c", "a--b/c", "/b", "a/"]
)
def test_no_repository_name_is_refused(fake: FakeHub, repo_id: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_sae(release=repo_id)
    assert caught.value.code == "INVALID_REPO_ID" and not fake.requests


@pytest.mark.parametrize("etag", ["../../evil", "..", "a/b", "x" * 300])
def test_an_etag_that_is_a_path_writes_nothing(
    fake: FakeHub, big: Path, etag: str, tmp_path: Path
) -> None:
    fake.add_folder(REPO, big)
    fake.fail(
        "/resolve/",
        method="HEAD",
        times=9,
        status=200,
        headers={"ETag": f'"{etag}"', "Content-Length": "5", "X-Repo-Commit": "a" * 40},
    )
    assert code_of(lambda: hub.repository(REPO).local(WEIGHTS)) == "HUB_BAD_REPLY"
    assert not [*tmp_path.rglob("*evil*")]


@pytest.mark.parametrize("token", [TOKEN + "\n", TOKEN + "é"])
def test_a_token_that_is_no_header_never_shows(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    fake.add_folder(REPO, DATA / "topk")
    monkeypatch.setenv("HF_TOKEN", token)
    try:
        load_sae(release=REPO, device="cpu")
    except SaescopeError as error:
        assert TOKEN not in f"{error} {error.hint} {error.__cause__}"


def test_a_folder_without_an_sae_names_those_that_have_one(fake: FakeHub) -> None:
    fake.add_folder(REPO, DATA, "saes")
    with pytest.raises(NotFoundError) as caught:
        load_sae(release=REPO, sae_id="saes/topkk")
    assert (caught.value.code, "saes/topk" in caught.value.allowed) == ("SAE_NOT_FOUND", True)
    for sae_id in ("", "saes"):
        with pytest.raises(FormatError) as found:
            load_sae(release=REPO, sae_id=sae_id)
        assert (
            found.value.code == "UNKNOWN_FORMAT"
            and "further down" in found.value.hint
            and "saes/" in found.value.allowed
        )


def test_a_configuration_on_the_hub_is_corrected_in_a_copy(fake: FakeHub, tmp_path: Path) -> None:
    copytree(DATA / "topk", tmp_path / "saes" / "topk")
    config = tmp_path / "saes" / "topk" / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"k": 0}))
    fake.add_folder(REPO, tmp_path / "saes", "saes")
    with pytest.raises(ConfigError, match=r"k must be a whole number in \[1, d_sae=48\]") as caught:
        load_sae(release=REPO, sae_id="saes/topk")
    assert caught.value.hint.startswith(
        f"Correct k in cfg.json of a copy of {REPO}, and load its folder. To load "
        "another SAE, call "
    )


def test_a_release_of_the_catalogue_brings_what_the_catalogue_knows(fake: FakeHub) -> None:
    fake.add_folder(
        "jbloom/GPT2-Small-SAEs-Reformatted", DATA / "legacy_standard", "blocks.8.hook_resid_pre"
    )
    by_name = load_sae(release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre", device="cpu")
    by_place = load_sae(
        release="jbloom/GPT2-Small-SAEs-Reformatted", sae_id="blocks.8.hook_resid_pre", device="cpu"
    )
    assert by_name.cfg == by_place.cfg
    assert (
        by_name.cfg.metadata.neuronpedia_id == "gpt2-small/8-res-jb"
        and by_name.cfg.metadata.center_writing_weights
    )


def test_the_published_scale_is_folded_into_the_weights(fake: FakeHub, tmp_path: Path) -> None:
    cfg = json.loads((DATA / "standard_expected_average" / "cfg.json").read_text())
    assert cfg["normalize_activations"] == "expected_average_only_in"
    fake.add_folder(
        "jbloom/Gemma-2b-Residual-Stream-SAEs",
        DATA / "standard_expected_average",
        "gemma_2b_blocks.12.hook_resid_post_16384",
    )
    sae = load_sae(release="gemma-2b-res-jb", sae_id="blocks.12.hook_resid_post", device="cpu")
    raw = load_sae(DATA / "standard_expected_average", device="cpu")
    assert sae.cfg.normalize_activations == "none"
    expected = raw.fold_activation_norm_scaling_factor(0.21381938399317255)
    assert all(
        torch.allclose(sae.tensors()[name], tensor) for name, tensor in expected.tensors().items()
    )
    again = load_sae(sae.save(tmp_path), device="cpu")
    assert same(again, sae)


def test_a_saved_sae_keeps_where_it_came_from(fake: FakeHub, tmp_path: Path) -> None:
    commit = fake.add_folder(REPO, DATA / "topk")
    sae = load_sae(release=REPO, device="cpu")
    again = load_sae(sae.save(tmp_path), device="cpu")
    assert again.cfg.metadata.raw["source"]["revision"] == commit


def test_gated_terms_and_private_repositories_are_told_apart(fake: FakeHub) -> None:
    errors: dict[str, Any] = {}
    for code in ("GatedRepo", "RepoNotFound"):
        fake.faults.clear()
        fake.fail(
            "/api/",
            times=9,
            status=403 if code == "GatedRepo" else 404,
            headers={"X-Error-Code": code},
        )
        with pytest.raises(NotFoundError) as caught:
            load_sae(release=REPO)
        errors[code] = caught.value.hint
    assert "Accept the terms" in errors["GatedRepo"] and "private" in errors["RepoNotFound"]
