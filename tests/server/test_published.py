"""load_sae beyond our own folders: repositories, revisions, dialects, gates, pickles; what a dry
run says of each."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.core.fake_hub import FakeHub
from tests.server.folders import write_llama_scope, write_pickled, write_sparsify
from tests.server.helpers import call, refuse, save_random_sae

from saescope.formats import pickles
from saescope.models import peek_model_bytes
from saescope_mcp.schemas.load import LoadSae
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState, Placement, Source
from saescope_mcp.state.loading import load
from saescope_mcp.tools.load import source_of

DIALECTS = Path(__file__).parents[1] / "data" / "dialects"
REPO = "someone/saes"


@pytest.fixture
def online(settings: Settings) -> AppState:
    return AppState(settings.model_copy(update={"offline": False}))


@pytest.fixture
def anywhere(settings: Settings) -> AppState:
    return AppState(settings.model_copy(update={"read_anywhere": True}))


async def test_a_revision_is_loaded_reported_and_remembered(
    fake_hub: FakeHub, online: AppState, settings: Settings, glass_dir: Path, tmp_path: Path
) -> None:
    commits = [
        fake_hub.add_folder(REPO, save_random_sae(tmp_path / str(seed), seed=seed), "some/sae")
        for seed in (0, 1)
    ]
    asked = {"release": REPO, "sae_id": "some/sae", "model": str(glass_dir)}
    new = await call(online, "load_sae", **asked)
    old = await call(online, "load_sae", **asked, revision=commits[0])
    assert [reply["revision"] for reply in (old, new)] == commits and old["dialect"] == "sae_lens"
    assert new["sae"] == "glassllm-en/2.resid_post/saes-some-sae" and old["sae"].startswith(
        f"{new['sae']}-"
    )
    hashes = [online.saes[reply["sae"]].weights_hash for reply in (old, new)]
    assert hashes[0] != hashes[1]
    later = AppState(settings)  # a known handle loads itself, at its own revision
    assert (await call(later, "top_features", sae=old["sae"], text="the old man"))["features"]
    assert later.saes[old["sae"]].weights_hash == hashes[0]
    later.close()
    assert (await refuse(online, "load_sae", **asked, revision="v9"))[
        "code"
    ] == "REVISION_NOT_FOUND"


async def test_once_loaded_it_loads_offline_and_is_listed(
    fake_hub: FakeHub, online: AppState, settings: Settings, glass_dir: Path, tmp_path: Path
) -> None:
    fake_hub.add_folder(REPO, save_random_sae(tmp_path / "sae"))
    loaded = await call(online, "load_sae", release=REPO, model=str(glass_dir))
    n_asked = len(fake_hub.requests)
    offline = AppState(settings)
    assert (await call(offline, "load_sae", release=REPO, model=str(glass_dir)))["sae"] == loaded[
        "sae"
    ]
    assert len(fake_hub.requests) == n_asked
    assert loaded["sae"] in [
        row["name"] for row in (await call(offline, "server_status"))["cached"]
    ]


async def test_progress_says_how_many_bytes(
    fake_hub: FakeHub, online: AppState, glass_dir: Path, tmp_path: Path
) -> None:
    fake_hub.add_folder(REPO, save_random_sae(tmp_path / "sae"))
    said: list[str] = []
    await load(online, Source(release=REPO, model=str(glass_dir)), Placement(), said.append)
    assert any(REPO in line and " MB" in line for line in said), said


async def test_a_dry_run_of_a_repository_fetches_no_weights(
    fake_hub: FakeHub, online: AppState, glass_dir: Path, tmp_path: Path
) -> None:
    fake_hub.add_folder(REPO, save_random_sae(tmp_path / "sae"))
    fake_hub.add_folder("someone/model", glass_dir)
    plan = await call(online, "load_sae", release=REPO, model="someone/model", dry_run=True)
    assert (plan["state"], plan["dialect"], plan["fits"], plan["d_sae"]) == (
        "planned",
        "sae_lens",
        True,
        256,
    )
    assert plan["memory"]["need"] == plan["weights_bytes"] + peek_model_bytes(glass_dir)
    assert not (tmp_path / "hub").exists()
    online.settings = online.settings.model_copy(update={"memory_share": 1e-9})
    plan = await call(online, "load_sae", release=REPO, model="someone/model", dry_run=True)
    assert plan["fits"] is False and "does not fit" in plan["summary"]
    assert (await refuse(online, "load_sae", release=REPO, model="someone/model"))[
        "code"
    ] == "OUT_OF_MEMORY_BUDGET"


async def test_a_model_of_unknown_size_is_no_promise_that_it_fits(
    state: AppState, sae_dir: Path
) -> None:
    plan = await call(
        state, "load_sae", path=str(sae_dir), model="nobody/nothing-here", dry_run=True
    )
    assert plan["fits"] is None and "not known before its download" in plan["summary"]


SAFE = {
    "gemma_2_res": "gemma_2",
    "gemma_3_transcoder": "gemma_3",
    "gemma_3_clt": "gemma_3",
    "dl_topk": "dictionary_learning_1",
    "mwhanna": "circuit_tracer",
    "llama_scope": "llama_scope",
    "llama_scope_r1": "llama_scope_r1_distill",
    "temporal": "temporal",
    "connor_rob": "connor_rob_hook_z",
}


@pytest.mark.parametrize("case", SAFE)
async def test_a_dry_run_recognises_a_folder_or_file(
    anywhere: AppState, glass_dir: Path, case: str
) -> None:
    facts = json.loads((DIALECTS / case / "case.json").read_text())
    path = f"{facts['path']}.safetensors" if case == "gemma_3_clt" else facts["path"]
    place = DIALECTS / case / facts["tree"] / path
    plan = await call(anywhere, "load_sae", path=str(place), model=str(glass_dir), dry_run=True)
    assert (plan["dialect"], plan["fits"], plan["revision"]) == (SAFE[case], True, None)
    assert SAFE[case] in plan["summary"] and plan["hook_name"] in plan["summary"]
    is_pickle = case in ("dl_topk", "connor_rob")
    assert any("is a pickle" in warning for warning in plan["warnings"]) is is_pickle
    assert any("cross-layer" in warning for warning in plan["warnings"]) is (case == "gemma_3_clt")


async def test_another_dialect_loads_from_its_folder(
    anywhere: AppState, glass_dir: Path, tmp_path: Path
) -> None:
    folder = write_sparsify(tmp_path / "layers.2")
    reply = await call(anywhere, "load_sae", path=str(folder), model=str(glass_dir))
    assert (reply["dialect"], reply["hook_name"], reply["k"]) == (
        "sparsify",
        "blocks.2.hook_resid_post",
        4,
    )
    assert reply["sae"] == "glassllm-en/2.resid_post/layers.2" and reply["check"]["l0"] <= 4
    assert reply["check"]["published_l0"] is None


async def test_a_gate_is_chosen_said_and_part_of_the_handle(
    anywhere: AppState, glass_dir: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {
        "path": str(write_llama_scope(tmp_path / "scope")),
        "model": str(glass_dir),
        "allow_mismatch": True,
    }
    default = await call(anywhere, "load_sae", **asked)
    theirs = await call(anywhere, "load_sae", **asked, gate="saelens")
    assert any('Gate "upstream"' in warning for warning in default["warnings"])
    assert any('Gate "saelens"' in warning for warning in theirs["warnings"])
    assert default["sae"] != theirs["sae"] and default["check"]["l0"] != theirs["check"]["l0"]


async def test_a_gate_that_an_sae_does_not_have_is_refused(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    error = await refuse(state, "load_sae", path=str(sae_dir), model=str(glass_dir), gate="saelens")
    assert (error["code"], error["field"]) == ("GATE_UNKNOWN", "gate")


async def test_a_site_that_the_user_names_wins_over_the_files(
    anywhere: AppState, sae_dir: Path, glass_dir: Path, tmp_path: Path
) -> None:
    for folder in (sae_dir, write_sparsify(tmp_path / "layers.2")):
        reply = await call(
            anywhere,
            "load_sae",
            path=str(folder),
            model=str(glass_dir),
            hook_name="blocks.1.hook_resid_pre",
        )
        assert reply["hook_name"] == "blocks.1.hook_resid_pre" and reply["sae"].startswith(
            "glassllm-en/1.resid_pre/"
        )


async def test_an_l0_far_from_the_published_one_is_in_the_verdict(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    folder = save_random_sae(sae_dir.parent / "said")
    said = json.loads((folder / "cfg.json").read_text())
    said["metadata"]["l0"] = 100
    (folder / "cfg.json").write_text(json.dumps(said))
    check = (await call(state, "load_sae", path=str(folder), model=str(glass_dir)))["check"]
    assert (check["l0"], check["published_l0"]) == (8, 100) and "100 were published" in check[
        "verdict"
    ]


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_pickle_loads_only_where_the_settings_allow_it(
    anywhere: AppState,
    glass_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: bool,
) -> None:
    folder = write_pickled(tmp_path / "resid_post_layer_2")
    monkeypatch.setattr(
        pickles, "_run_child", lambda path, out: {"values": pickles.convert(path, out)}
    )  # its own process: core's tests
    monkeypatch.setenv(pickles.SETTING, "0" if allowed else "1")  # the server's settings decide
    anywhere.settings = anywhere.settings.model_copy(update={"allow_pickle": allowed})
    asked = {"path": str(folder), "model": str(glass_dir)}
    if allowed:
        reply = await call(anywhere, "load_sae", **asked)
        assert (reply["dialect"], reply["hook_name"]) == (
            "dictionary_learning_1",
            "blocks.2.hook_resid_post",
        )
    else:
        error = await refuse(anywhere, "load_sae", **asked)
        assert error["code"] == "PICKLE_REFUSED" and "SAESCOPE_ALLOW_PICKLE=1" in error["hint"]
        assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("word", ["1", "true", "True", "yes", "on", "0", "false", "no", "off", ""])
def test_the_setting_means_to_the_server_what_it_means_to_the_core(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pickles.SETTING, word)
    assert Settings.from_env({pickles.SETTING: word}).allow_pickle is pickles.is_allowed()


def test_the_many_names_of_a_published_sae_are_one_source(state: AppState) -> None:
    names = [
        ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"),
        ("gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical"),
        ("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"),
    ]
    sources = [
        source_of(LoadSae(release=release, sae_id=sae_id), state) for release, sae_id in names
    ]
    assert (
        sources[0] == sources[1] == sources[2]
        and (sources[0].release, sources[0].sae_id) == names[0]
    )


def test_the_digest_of_a_source_says_nothing_of_arguments_that_were_not_given() -> None:
    said = json.dumps({"path": "/x"})
    assert Source(path="/x").digest == hashlib.sha256(said.encode()).hexdigest()[:6]
    assert Source(path="/x").digest != Source(path="/x", gate="saelens").digest
