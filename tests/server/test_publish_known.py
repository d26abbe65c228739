"""publish_sae of a handle that is known but not loaded: the same weights as load_sae would
bring."""

from pathlib import Path

import pytest
from tests.core.fake_hub import FakeHub
from tests.server.helpers import call, save_random_sae

import saescope as ss
from saescope.features import QuizStore
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
    return reply["sae"], online.saes[reply["sae"]].weights_hash


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


async def test_reading_a_prompt_leaves_quizzes_to_the_tool_that_asked(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = await call(state, "load_sae", wait_s=55.0)
    voided: list[list[str]] = []
    monkeypatch.setattr(QuizStore, "void", lambda self, texts: voided.append(list(texts)))
    await state.saes[reply["sae"]].tokenize(["A dog."])
    assert voided == []
    await call(state, "encode_text", sae=reply["sae"], text="A dog.")
    assert voided == [["A dog."]]
