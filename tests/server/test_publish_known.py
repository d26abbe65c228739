"""publish_sae of a handle that is known but not loaded: the same weights as load_sae would
bring."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.core.fake_hub import FakeHub
from tests.server.folders import write_llama_scope, write_pickled
from tests.server.helpers import call, refuse, save_random_sae

import saescope as ss
from saescope.features import QuizStore
from saescope.formats import pickles
from saescope.names import home
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

REPO = "someone/saes"


async def known_at_the_older_commit(
    hub: FakeHub, online: AppState, glass_dir: Path, tmp_path: Path
) -> tuple[str, str]:
    """A handle that pins the first of two commits, and the hash of the weights there."""
    folders = [save_random_sae(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    commits = [hub.add_folder(REPO, folder, "some/sae") for folder in folders]
    asked = {"release": REPO, "sae_id": "some/sae", "model": str(glass_dir)}
    reply = await call(online, "load_sae", **asked, revision=commits[0])
    return reply["sae"], ss.load_sae(folders[0]).weights_hash


async def test_a_pinned_revision_is_what_is_published(
    fake_hub: FakeHub, settings: Settings, glass_dir: Path, tmp_path: Path
) -> None:
    online = AppState(settings.model_copy(update={"offline": False, "read_anywhere": True}))
    handle, wanted = await known_at_the_older_commit(fake_hub, online, glass_dir, tmp_path)
    fresh = AppState(online.settings)
    target = tmp_path / "published"
    await call(fresh, "publish_sae", sae=handle, path=str(target), dry_run=False)
    assert ss.load_sae(target).weights_hash == wanted


async def test_offline_nothing_is_fetched_to_be_published(
    fake_hub: FakeHub, settings: Settings, glass_dir: Path, tmp_path: Path
) -> None:
    online = AppState(settings.model_copy(update={"offline": False, "read_anywhere": True}))
    handle, _ = await known_at_the_older_commit(fake_hub, online, glass_dir, tmp_path)
    before = len(fake_hub.requests)
    offline = AppState(settings.model_copy(update={"offline": True, "read_anywhere": True}))
    await call(offline, "publish_sae", sae=handle, path=str(tmp_path / "out"), dry_run=True)
    assert len(fake_hub.requests) == before


async def test_the_gate_that_a_handle_was_loaded_with_is_what_is_published(
    settings: Settings, glass_dir: Path, tmp_path: Path
) -> None:
    anywhere = AppState(settings.model_copy(update={"read_anywhere": True}))
    asked: dict[str, Any] = {
        "path": str(write_llama_scope(tmp_path / "scope")),
        "model": str(glass_dir),
        "allow_mismatch": True,
    }
    handles = {
        gate: (await call(anywhere, "load_sae", **asked, gate=gate))["sae"]
        for gate in ("upstream", "saelens")
    }
    x = ss.load_sae(asked["path"]).W_dec[:64] * 3
    published: dict[str, ss.SAE] = {}
    for gate, handle in handles.items():
        fresh = AppState(anywhere.settings)  # where nothing is loaded
        await call(fresh, "publish_sae", sae=handle, path=str(tmp_path / gate), dry_run=False)
        published[gate] = ss.load_sae(tmp_path / gate)
        assert published[gate].encode(x).equal(anywhere.saes[handle].sae.encode(x)), gate
    assert not published["upstream"].encode(x).equal(published["saelens"].encode(x))


@pytest.mark.parametrize("allowed", [False, True])
async def test_pickled_weights_are_published_only_where_the_settings_allow_it(
    settings: Settings,
    glass_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: bool,
) -> None:
    monkeypatch.setattr(
        pickles, "_run_child", lambda path, out: {"values": pickles.convert(path, out)}
    )  # its own process: core's tests
    monkeypatch.setenv(pickles.SETTING, "0" if allowed else "1")  # the server's settings decide
    may = AppState(settings.model_copy(update={"read_anywhere": True, "allow_pickle": True}))
    folder = write_pickled(tmp_path / "resid_post_layer_2")
    reply = await call(may, "load_sae", path=str(folder), model=str(glass_dir))
    shutil.rmtree(home() / "converted")  # what was converted is no pickle any more
    fresh = AppState(may.settings.model_copy(update={"allow_pickle": allowed}))
    asked: dict[str, Any] = {"sae": reply["sae"], "path": str(tmp_path / "out"), "dry_run": False}
    if allowed:
        await call(fresh, "publish_sae", **asked)
        wanted = may.saes[reply["sae"]].weights_hash
        assert ss.load_sae(tmp_path / "out").weights_hash == wanted
    else:
        assert (await refuse(fresh, "publish_sae", **asked))["code"] == "PICKLE_REFUSED"
        assert not (tmp_path / "out").exists()


async def test_reading_a_prompt_leaves_quizzes_to_the_tool_that_asked(
    tiny: AppState, sae: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    voided: list[list[str]] = []
    monkeypatch.setattr(QuizStore, "void", lambda self, texts: voided.append(list(texts)))
    await tiny.saes[sae].tokenize(["A dog."])
    assert voided == []
    await call(tiny, "encode_text", sae=sae, text="A dog.")
    assert voided == [["A dog."]]
