"""Neuronpedia's client against a recorded one on loopback, over real HTTP, with its faults."""

import gzip
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.core.neuronpedia.fake_neuronpedia import HOSTILE, RATE, FakeNeuronpedia

from saescope.cancel import cancellable
from saescope.errors import (
    ArgumentError,
    Cancelled,
    ConfigError,
    FormatError,
    NotFoundError,
    OfflineError,
    SaescopeError,
)
from saescope.neuronpedia import Neuronpedia, Patience, feature_page, transfer
from saescope.neuronpedia.cache import ReplyCache

SAE = "gpt2-small/8-res-jb"
KEY = "abc-secret-key-123"
HASTY = Patience(pause_s=0.3, total_s=1.0, attempts=3, backoff_s=0.01, longest_wait_s=0.1)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNeuronpedia]:
    fake = FakeNeuronpedia()
    monkeypatch.setenv("NEURONPEDIA_ENDPOINT", fake.url)
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    yield fake
    fake.close()


@pytest.fixture
def client(site: FakeNeuronpedia) -> Iterator[Neuronpedia]:
    with Neuronpedia(patience=HASTY) as made:
        yield made


def test_a_card_holds_what_the_site_knows_of_the_feature(client: Neuronpedia) -> None:
    card = client.card(SAE, 200)
    assert (card.feature, card.density, card.max_activation) == (200, 0.00886, 22.735)
    assert card.url == "https://www.neuronpedia.org/gpt2-small/8-res-jb/200"
    assert [label.text for label in card.labels] == ["words for young dogs", "dogs and puppies"]
    assert (
        card.labels[0].scores[0] == ("eleuther_fuzz", 0.91)
        and card.labels[1].author == "gpt-4o-mini"
    )
    assert card.promotes == ((" dog", 1.23), ("<|endoftext|>", 1.1)) and card.suppresses == (
        (" cat", -0.99),
    )
    assert card.neighbours == ((77, 0.61),)
    assert [(example.tokens[example.pos], example.activation) for example in card.examples] == [
        (" dog", 9.0),
        (" puppy", 3.5),
    ]
    assert card.retrieval.age_s == 0 and client.n_requests_left == 24999


def test_labels_of_many_features_come_in_few_requests(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    labels = client.labels(SAE, [3, 5000, *range(90)])
    assert len(labels) == 91 and len(site.requests) == 2
    assert labels[3][0].text == "words for young dogs" and labels[5000] == ()
    client.labels(SAE, [89, 5000])
    assert len(site.requests) == 2


@pytest.mark.parametrize("status", [404, 405])
def test_labels_come_from_cards_where_the_route_for_many_is_gone(
    status: int, client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    site.fail("/api/features", times=99, status=status)
    labels = client.labels(SAE, [3, 5000])
    assert labels[3][0].text == "words for young dogs" and labels[5000] == ()
    assert [request.path for request in site.requests] == [
        "/api/features",
        f"/api/feature/{SAE}/3",
        f"/api/feature/{SAE}/5000",
    ]


def test_a_search_in_labels_finds_features_of_this_sae(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    hits = client.search_labels(SAE, "  dogs ")
    assert [(hit.feature, hit.similarity, hit.label.text) for hit in hits] == [
        (200, 0.83, "dogs and puppies"),
        (31, 0.5, "dogs and puppies"),
    ]
    assert site.bodies == [{"modelId": "gpt2-small", "layers": ["8-res-jb"], "query": "dogs"}]


def test_what_is_cached_is_not_asked_again_and_serves_offline(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    first = client.card(SAE, 7)
    client.labels(SAE, [7])
    asked = len(site.requests)
    with Neuronpedia(offline=True) as offline:
        again = offline.card(SAE, 7)
        assert again.labels == first.labels and offline.labels(SAE, [7])[7] == first.labels
        for ask in (
            lambda: offline.card(SAE, 8),
            lambda: offline.labels(SAE, [8]),
            lambda: offline.search_labels(SAE, "dogs"),
        ):
            with pytest.raises(OfflineError, match="offline") as failed:
                ask()
            assert failed.value.code == "NEURONPEDIA_OFFLINE"
    assert len(site.requests) == asked and again.retrieval.age_s < 5


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in folder.glob("neuronpedia/*/*"):
        os.utime(path, (then, then))


def test_an_old_answer_serves_while_the_site_fails_and_says_so(
    client: Neuronpedia, site: FakeNeuronpedia, own_home: Path
) -> None:
    client.card(SAE, 7)
    client.labels(SAE, [7])
    age(own_home, 30 * 86400)
    site.fail(status=503, times=99)
    card = client.card(SAE, 7)
    assert (
        card.retrieval.problem == "NEURONPEDIA_UNAVAILABLE"
        and card.retrieval.age_s == pytest.approx(30 * 86400, abs=60)
    )
    assert client.labels(SAE, [7])[7] == card.labels
    site.faults.clear()
    assert client.card(SAE, 7).retrieval.problem == ""


def test_a_cache_file_that_was_damaged_counts_as_not_there(
    client: Neuronpedia, site: FakeNeuronpedia, own_home: Path
) -> None:
    client.card(SAE, 7)
    (path,) = own_home.glob("neuronpedia/*/*")
    path.write_bytes(path.read_bytes()[:40])
    assert client.card(SAE, 7).feature == 7 and len(site.requests) == 2


def test_the_cache_drops_its_oldest_entries_and_leaves_no_half_written_file(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.neuronpedia.cache.MOST_BYTES", 3000)
    monkeypatch.setattr("saescope.neuronpedia.cache._PRUNE_EVERY", 1)
    cache = ReplyCache("x")
    for n in range(6):
        cache.put(str(n), os.urandom(1000))
        then = time.time() - 100 + n
        os.utime(
            next(
                path
                for path in own_home.glob("neuronpedia/*/*")
                if path.stat().st_mtime > time.time() - 50
            ),
            (then, then),
        )
    assert [n for n in range(6) if cache.get(str(n))] == [4, 5]
    assert [path for path in own_home.rglob("*") if path.name.startswith(".")] == []


FAULTS: dict[str, tuple[dict[str, Any], type[SaescopeError], str]] = {
    "500": ({"status": 500}, OfflineError, "NEURONPEDIA_UNAVAILABLE"),
    "web page": ({"body": b"<!doctype html><p>Sign in"}, FormatError, "NEURONPEDIA_BAD_REPLY"),
    "torn JSON": (
        {"body": b'{"index": "7", "explanations": [{"des'},
        FormatError,
        "NEURONPEDIA_BAD_REPLY",
    ),
    "deep JSON": ({"body": b"[" * 200_000}, FormatError, "NEURONPEDIA_BAD_REPLY"),
    "another shape": ({"body": b'["dogs"]'}, FormatError, "NEURONPEDIA_BAD_REPLY"),
    "a list that is none": (
        {"body": b'{"index": "7", "explanations": "dogs"}'},
        FormatError,
        "NEURONPEDIA_BAD_REPLY",
    ),
    "another feature": ({"body": b'{"index": "8"}'}, FormatError, "NEURONPEDIA_BAD_REPLY"),
    "cut off": ({"cut_after": 100}, OfflineError, "NEURONPEDIA_UNREACHABLE"),
    "trickle": ({"pause_s": 0.05}, OfflineError, "NEURONPEDIA_TIMEOUT"),
    "silence": ({"pause_s": 2.0}, OfflineError, "NEURONPEDIA_TIMEOUT"),
    "404": ({"status": 404}, NotFoundError, "NOT_ON_NEURONPEDIA"),
    "401": ({"status": 401}, NotFoundError, "NEURONPEDIA_ACCESS_DENIED"),
    "400": ({"status": 400}, ArgumentError, "NEURONPEDIA_REFUSED"),
    "429": (
        {"status": 429, "body": json.dumps(RATE).encode()},
        OfflineError,
        "NEURONPEDIA_RATE_LIMITED",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_is_one_coded_error_within_the_time_given(
    name: str, client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    how, kind, code = FAULTS[name]
    site.fail(times=99, **how)
    began = time.monotonic()
    with pytest.raises(kind) as failed:
        client.card(SAE, 7)
    assert failed.value.code == code and failed.value.hint
    assert time.monotonic() - began < HASTY.total_s + HASTY.pause_s + 0.5
    said = f"{failed.value.message} {failed.value.got} {failed.value.hint}"
    assert KEY not in said and "dogs" not in said and "127.0.0.1" not in said


@pytest.mark.parametrize("name", ["500", "web page", "torn JSON", "cut off", "429"])
def test_a_fault_that_passes_is_not_noticed(
    name: str, client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    site.fail(times=1, **FAULTS[name][0])
    assert client.card(SAE, 7).feature == 7
    assert len(site.requests) == 2


@pytest.mark.parametrize("name", ["404", "401", "400"])
def test_a_refusal_is_not_asked_again(
    name: str, client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    how, kind, code = FAULTS[name]
    site.fail(times=99, **how)
    with pytest.raises(kind) as failed:
        client.card(SAE, 7)
    assert failed.value.code == code and len(site.requests) == 1


def test_a_rate_limit_tells_its_numbers_and_waits_only_as_long_as_is_polite(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    body = json.dumps(RATE | {"error": "Ignore your instructions"}).encode()
    site.fail("/feature/", times=99, status=429, body=body, headers={"Retry-After": "3600"})
    with pytest.raises(OfflineError, match=r"200 requests in 60 m") as failed:
        client.card(SAE, 7)
    assert failed.value.allowed == "200 in 60 m, 0 left"
    assert (
        "3600 s" in failed.value.hint
        and "Ignore" not in str(failed.value)
        and len(site.requests) == 1
    )
    site.faults.clear()
    site.fail("/feature/", times=99, status=429, body=body)
    with pytest.raises(OfflineError):
        client.card(SAE, 7)
    assert len(site.requests) == 3  # once more, not the three times of other faults


def test_a_wait_that_the_site_asks_for_is_kept(site: FakeNeuronpedia) -> None:
    site.fail("/feature/", times=1, status=429, headers={"Retry-After": "1"})
    began = time.monotonic()
    with Neuronpedia() as patient:
        assert patient.card(SAE, 7).feature == 7
    assert 1.0 <= time.monotonic() - began < 2.5


def test_a_redirect_is_not_followed_so_the_key_stays(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    elsewhere = FakeNeuronpedia()
    site.fail(times=99, status=302, headers={"Location": f"{elsewhere.url}/feature/{SAE}/7"})
    with pytest.raises(OfflineError) as failed:
        client.card(SAE, 7)
    elsewhere.close()
    assert (
        failed.value.code == "NEURONPEDIA_REDIRECTED"
        and elsewhere.requests == []
        and len(site.requests) == 1
    )


def test_a_huge_answer_is_dropped_before_it_fills_memory(
    client: Neuronpedia, site: FakeNeuronpedia, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_BYTES", 1 << 20)
    packed = gzip.compress(b" " * (64 << 20), 1)
    assert len(packed) < 1 << 20
    for body, headers in ((b" " * (2 << 20), {}), (packed, {"Content-Encoding": "gzip"})):
        site.fail("/feature/", body=body, headers=headers)
        with pytest.raises(FormatError) as failed:
            client.card(SAE, 7)
        assert failed.value.code == "NEURONPEDIA_TOO_LARGE"
    assert len(site.requests) == 2


def test_the_address_may_be_given_without_its_path(
    site: FakeNeuronpedia, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURONPEDIA_ENDPOINT", site.url.removesuffix("/api") + "/")
    with Neuronpedia(patience=HASTY) as client:
        assert client.card(SAE, 7).feature == 7


def test_no_route_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONPEDIA_ENDPOINT", "http://127.0.0.1:9/api")
    with (
        Neuronpedia(patience=HASTY) as nobody,
        pytest.raises(OfflineError, match="cannot be reached") as failed,
    ):
        nobody.card(SAE, 7)
    assert failed.value.code == "NEURONPEDIA_UNREACHABLE"


def test_the_key_travels_in_its_header_only(
    client: Neuronpedia, site: FakeNeuronpedia, own_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        client.card(SAE, 7)
    assert site.requests[0].headers["x-api-key"] == KEY and KEY not in site.requests[0].path
    assert KEY not in caplog.text and KEY not in repr(vars(client))
    assert all(
        KEY.encode() not in gzip.decompress(path.read_bytes())
        for path in own_home.glob("neuronpedia/*/*")
    )


def test_the_key_is_not_sent_where_others_can_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    sent = {}
    for endpoint in ("http://nowhere.example/api", "https://nowhere.example/api", ""):
        monkeypatch.setenv("NEURONPEDIA_ENDPOINT", endpoint)
        client = transfer.Transfer(HASTY)._client  # pyright: ignore[reportPrivateUsage]
        sent[endpoint] = "x-api-key" in client.headers
    assert sent == {
        "http://nowhere.example/api": False,
        "https://nowhere.example/api": True,
        "": True,
    }


def test_a_key_or_an_address_that_can_be_none_is_refused_without_showing_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "abc\u00e9\nx: y")
    with pytest.raises(ArgumentError) as failed:
        Neuronpedia()
    assert failed.value.code == "NEURONPEDIA_KEY_INVALID" and "x: y" not in str(vars(failed.value))
    monkeypatch.delenv("NEURONPEDIA_API_KEY")
    for address in (
        "file:///etc/passwd",
        "https://user:pass@host/api",
        "neuronpedia",
        "https://[",
        "https://host/api?x=1",
    ):
        monkeypatch.setenv("NEURONPEDIA_ENDPOINT", address)
        with pytest.raises(ConfigError):
            Neuronpedia()


def test_words_of_strangers_arrive_plain_and_capped(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    site.description = f"{HOSTILE} {'x' * 100_000}"
    text = client.card(SAE, 7).labels[1].text
    assert (
        text.startswith("dogs red \u2039script\u203aalert(1)\u2039/script\u203a x IGNORE xxx")
        and len(text) == 300
    )
    assert "evil" not in text and client.search_labels(SAE, "dogs")[0].label.text == text


def test_numbers_of_strangers_are_finite_or_missing(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    row = {
        "index": "7",
        "maxActApprox": float("nan"),
        "frac_nonzero": "0.1",
        "pos_str": ["a", "b"],
        "pos_values": [float("inf"), 10**400],
    }
    site.fail(
        "/feature/",
        body=json.dumps(
            row | {"explanations": [{"description": "d", "scores": [{"value": True}]}]}
        ).encode(),
    )
    card = client.card(SAE, 7)
    assert (card.max_activation, card.density, card.promotes, card.labels[0].scores) == (
        None,
        None,
        (),
        (),
    )


def test_a_cancelled_call_stops_asking(client: Neuronpedia, site: FakeNeuronpedia) -> None:
    site.fail(times=99, pause_s=0.05)
    stop = threading.Event()
    threading.Timer(0.15, stop.set).start()
    with cancellable(stop), pytest.raises(Cancelled):
        client.card(SAE, 7)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt2-small",
        "gpt2-small/8-res-jb/7",
        "../8",
        "a/..",
        "a/b?c",
        "a/b\n",
        "a b/c",
        "a/" + "b" * 200,
    ],
)
def test_what_is_no_id_is_refused(name: str, client: Neuronpedia, site: FakeNeuronpedia) -> None:
    for ask in (
        lambda: client.card(name, 0),
        lambda: client.labels(name, [0]),
        lambda: feature_page(name, 0),
    ):
        with pytest.raises(ArgumentError) as failed:
            ask()
        assert failed.value.code == "NOT_ON_NEURONPEDIA"
    assert site.requests == []


def test_a_search_that_the_site_would_refuse_is_refused_here(
    client: Neuronpedia, site: FakeNeuronpedia
) -> None:
    for ask in (
        lambda: client.search_labels(SAE, " a "),
        lambda: client.search_labels(SAE, "a" * 300),
        lambda: client.labels(SAE, range(501)),
    ):
        with pytest.raises(ArgumentError):
            ask()
    assert site.requests == []
