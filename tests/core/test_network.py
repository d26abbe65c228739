"""Offline is known in a second and remembered; what is asked then says what is here."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saescope import hub, network
from saescope.errors import OfflineError
from saescope.load import load_sae
from saescope.models import load_model
from saescope.neuronpedia import Neuronpedia

CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    network.seen.clear()
    yield
    network.seen.clear()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A network that leads nowhere, and an empty cache."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_name_that_is_looked_up_for_ever_is_given_up_after_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: object) -> socket.socket:
        time.sleep(3)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", slow)
    began = time.monotonic()
    assert not network.reachable("https://hub.example")
    assert network.TEST_S <= time.monotonic() - began < network.TEST_S + 1
    began = time.monotonic()
    assert not network.reachable("https://hub.example/api/models")  # remembered
    assert time.monotonic() - began < 0.1


def test_the_answer_is_kept_for_some_minutes_or_until_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert not network.reachable(url)
        server.listen()
        assert not network.reachable(url)
        assert network.reachable(url, again=True) and network.reachable(url)
    assert network.reachable(url)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + network.REMEMBERED_S + 1)
    assert not network.reachable(url)


def test_behind_a_proxy_the_proxy_is_what_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "inside.example")
        assert network.reachable("https://hub.example")
        assert network.first_hop("https://inside.example") == ("inside.example", 443)


@pytest.mark.usefixtures("no_hub")
def test_sae_model_and_label_are_refused_at_once_and_the_error_names_what_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEURONPEDIA_ENDPOINT", f"{CLOSED}/api")
    for ask in (
        lambda: load_sae(release="owner/name", sae_id="x"),
        lambda: load_model("owner/name"),
        lambda: Neuronpedia().card("gpt2-small/8-res-jb", 7),
    ):
        began = time.monotonic()
        with pytest.raises(OfflineError, match="cannot be reached"):
            ask()
        assert time.monotonic() - began < 2  # four tries with pauses took more than three


@pytest.mark.usefixtures("no_hub")
def test_an_error_lists_the_published_saes_and_models_that_are_cached(tmp_path: Path) -> None:
    sae = tmp_path / "hub/models--jbloom--GPT2-Small-SAEs-Reformatted/snapshots/a1"
    (sae / "blocks.8.hook_resid_pre").mkdir(parents=True)
    (sae / "blocks.8.hook_resid_pre/sae_weights.safetensors").touch()
    model = tmp_path / "hub/models--openai-community--gpt2/snapshots/b2"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    (model / "model.safetensors").touch()
    with pytest.raises(OfflineError) as failed:
        hub.repository("owner/name")
    call = 'ss.load_sae(release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre")'
    assert call in failed.value.hint and call in failed.value.facts["here"]
    with pytest.raises(OfflineError) as failed:
        load_model("owner/name")
    assert failed.value.facts["here"] == ["openai-community/gpt2"]
