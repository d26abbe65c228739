"""load_sae with layers: a set as one handle beside those of its SAEs, on the tiny model."""

from pathlib import Path
from typing import Any

import pytest
from tests.server.helpers import PROMPT, call, refuse, save_random_clt, save_random_sae

from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.state.set_loading import load_known_set

SET = "glassllm-en/all.resid_post/set"
BYTES = 4 * (2 * 128 * 256 + 256 + 128)


@pytest.fixture(scope="module")
def set_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    for i in range(4):
        place = folder / f"layer_{i}"
        save_random_sae(place, hook_name=f"blocks.{i}.hook_resid_post", seed=i)
    return folder


@pytest.fixture
def settings(set_dir: Path, glass_dir: Path, tmp_path: Path) -> Settings:
    roots = (set_dir.parent, glass_dir.parent, tmp_path)
    return Settings(read_roots=roots, offline=True)


@pytest.fixture
def given(set_dir: Path, glass_dir: Path) -> dict[str, Any]:
    return {"path": str(set_dir), "model": str(glass_dir), "layers": "all"}


async def test_a_set_is_one_handle_and_each_of_its_saes_has_one(
    state: AppState, given: dict[str, Any]
) -> None:
    reply = await call(state, "load_sae", **given, response_format="detailed")
    assert (reply["sae"], reply["layers"], reply["state"]) == (SET, "0-3", "done")
    assert reply["members"] == [f"glassllm-en/{i}.resid_post/set" for i in range(4)]
    assert reply["weights_bytes"] == 4 * BYTES and "4 SAEs" in reply["summary"]
    model = next(iter(state.models.values())).model.weights_bytes
    memory = reply["memory"]
    assert (memory["need"], memory["least"]) == (4 * BYTES + model, BYTES + model)
    fits = reply["check"]["layers"]
    worst = min(fits, key=lambda fit: fit["explained_variance"])
    assert len(fits) == 4 and f"at {worst['hook_name']}" in reply["summary"]
    assert reply["check"]["verdict"].partition(":")[0] in ("good", "fair", "doubtful", "wrong")


async def test_a_sae_of_a_set_is_used_by_its_own_handle_and_takes_no_second_memory(
    state: AppState, given: dict[str, Any], set_dir: Path
) -> None:
    await call(state, "load_sae", **given)
    used = state.room().used
    handle = "glassllm-en/2.resid_post/set"
    ours = await call(state, "encode_text", sae=handle, text=PROMPT)
    assert "loaded for this call" in " ".join(ours["warnings"])
    assert state.room().used == used
    entry = state.sets[SET]
    assert state.saes[handle].sae is entry.sae_set.members[2].sae
    alone = {key: value for key, value in given.items() if key != "layers"}
    alone["path"] = str(set_dir / "layer_2")
    assert (await call(state, "load_sae", **alone))["sae"] == handle


async def test_the_numbers_of_a_set_are_those_of_its_saes(
    state: AppState, given: dict[str, Any]
) -> None:
    reply = await call(state, "load_sae", **given, response_format="detailed")
    for handle, fit in zip(reply["members"], reply["check"]["layers"], strict=True):
        await call(state, "encode_text", sae=handle, text=PROMPT)
        check = state.saes[handle].check
        assert check.explained_variance == pytest.approx(fit["explained_variance"], rel=1e-3)


async def test_a_dry_run_reads_headers_and_remembers_nothing(
    state: AppState, given: dict[str, Any]
) -> None:
    reply = await call(state, "load_sae", **given, dry_run=True)
    assert reply["state"] == "planned" and reply["fits"] is True and reply["sae"] is None
    assert reply["weights_bytes"] == 4 * BYTES and 'layers="all"' not in reply["summary"]
    assert reply["memory"]["least"] < reply["memory"]["need"]
    assert 'layers="all"' in reply["next"][0].replace("'", '"')
    assert not state.sets and not state.models and not state.known.all()


async def test_a_sets_handle_where_one_sae_is_meant_names_the_sae(
    state: AppState, given: dict[str, Any]
) -> None:
    await call(state, "load_sae", **given)
    error = await refuse(state, "top_features", sae=SET, text=PROMPT)
    assert (error["code"], error["field"]) == ("SET_HANDLE", "sae")
    assert 'sae="glassllm-en/0.resid_post/set"' in error["hint"]


async def test_handles_of_a_set_survive_a_restart(
    state: AppState, given: dict[str, Any], settings: Settings
) -> None:
    await call(state, "load_sae", **given)
    again = AppState(settings)
    try:
        error = await refuse(again, "top_features", sae=SET, text=PROMPT)
        assert 'sae="glassllm-en/0.resid_post/set"' in error["hint"] and not again.models
        await call(again, "encode_text", sae="glassllm-en/1.resid_post/set", text=PROMPT)
        assert [*again.saes] == ["glassllm-en/1.resid_post/set"] and not again.sets
        await load_known_set(again, SET)
        async with again.use_set(SET) as loaded:
            assert loaded.sae_set.layers == "0-3" and loaded.model is not None
    finally:
        again.close()


async def test_a_set_is_asked_for_by_its_handle_alone(
    state: AppState, given: dict[str, Any]
) -> None:
    await call(state, "load_sae", **given)
    async with state.use_set(SET) as loaded:
        assert loaded.handle == SET
    with pytest.raises(Exception, match="one layer") as caught:
        state.require_set("glassllm-en/1.resid_post/set")
    assert getattr(caught.value, "code", "") == "NOT_A_SET"
    with pytest.raises(Exception, match="not loaded"):
        state.require_set("nothing")


async def test_unload_frees_a_set_with_the_saes_that_were_taken_of_it(
    state: AppState, given: dict[str, Any]
) -> None:
    await call(state, "load_sae", **given)
    await call(state, "encode_text", sae="glassllm-en/2.resid_post/set", text=PROMPT)
    reply = await call(state, "unload", handle=SET)
    assert reply["unloaded"] == [SET, "glassllm-en/2.resid_post/set"]
    assert reply["freed_bytes"] == 4 * BYTES and not state.sets and not state.saes
    status = await call(state, "server_status")
    assert [row["kind"] for row in status["loaded"]] == ["model"]
    await call(state, "load_sae", **given)
    status = await call(state, "server_status")
    assert [row["kind"] for row in status["loaded"]] == ["model", "set"]
    await call(state, "unload", handle="glassllm-en")
    assert not state.sets and not state.models


async def test_some_layers_are_a_set_of_their_own(state: AppState, given: dict[str, Any]) -> None:
    for layers, handle in (("1-2", "1-2"), ("3, 0", "0,3"), ("0,1,2", "0-2")):
        reply = await call(state, "load_sae", **given | {"layers": layers})
        assert reply["sae"] == f"glassllm-en/{handle}.resid_post/set"
    assert len(state.sets) == 3


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"layers": "3-1"}, "INVALID_LAYERS", "layers"),
        ({"layers": "2-9"}, "LAYER_NOT_FOUND", "layers"),
        ({"scan": True}, "INVALID_CHOICE", "scan"),
    ],
)
async def test_layers_that_make_no_set_are_refused(
    changed: dict[str, Any], code: str, field: str, state: AppState, given: dict[str, Any]
) -> None:
    error = await refuse(state, "load_sae", **given | changed)
    assert (error["code"], error["field"]) == (code, field) and error["hint"]
    assert not state.sets and not state.models


async def test_a_set_that_does_not_fit_is_read_a_layer_at_a_time(
    state: AppState, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await call(state, "load_sae", model=given["model"], path=f"{given['path']}/layer_0")
    used = state.room().used
    share = (used + 2.5 * BYTES) / state.room().total
    monkeypatch.setattr(
        state, "settings", state.settings.model_copy(update={"memory_share": share})
    )
    reply = await call(state, "load_sae", **given)
    assert "stay in memory" in reply["summary"]
    resident = state.sets[SET].sae_set.resident
    assert len(resident.members) == 2 and resident.n_bytes <= 2.5 * BYTES
    assert state.room().used <= state.room().budget


async def test_a_large_set_is_checked_at_some_layers(
    state: AppState, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "settings", state.settings.model_copy(update={"check_set_bytes": 1}))
    reply = await call(state, "load_sae", **given, response_format="detailed")
    assert "median of 3 layers" in reply["summary"]
    assert [fit["hook_name"] for fit in reply["check"]["layers"]] == [
        f"blocks.{i}.hook_resid_post" for i in (0, 2, 3)
    ]


async def test_a_layer_of_a_cross_layer_transcoder_has_a_handle_for_its_features(
    state: AppState, tmp_path: Path, glass_dir: Path
) -> None:
    folder = save_random_clt(tmp_path / "clt")
    reply = await call(
        state, "load_sae", path=str(folder), model=str(glass_dir), layers="all", allow_mismatch=True
    )
    assert reply["sae"] == "glassllm-en/all.resid_mid/clt" and "cross-layer" in reply["summary"]
    one = await call(state, "encode_text", sae="glassllm-en/1.resid_mid/clt", text=PROMPT)
    assert any(token["features"] for token in one["tokens"])
    clt = state.sets[reply["sae"]].sae_set
    assert state.saes["glassllm-en/1.resid_mid/clt"].sae.cfg.d_sae == clt.members[1].cfg.d_sae
    edit = {"feature": one["tokens"][-1]["features"][0]["feature"], "mode": "ablate"}
    done = await call(
        state,
        "intervene",
        sae="glassllm-en/1.resid_mid/clt",
        prompt=PROMPT,
        edits=[edit],
        n_controls=2,
    )
    assert done["effect"] and done["evidence"] == "controlled"
    written = await call(
        state,
        "steer_generate",
        prompt=PROMPT,
        features=[{**edit, "sae": "glassllm-en/1.resid_mid/clt"}],
        max_new_tokens=3,
        n_controls=0,
    )
    assert written["steered"][0]["metrics"]["kl"] > 0


async def test_where_sets_fill_the_room_a_set_is_named_and_no_other_client(
    given: dict[str, Any], settings: Settings
) -> None:
    state = AppState(settings.model_copy(update={"max_saes": 1}))
    await call(state, "load_sae", **given)
    error = await refuse(state, "load_sae", **given | {"layers": "1-2"})
    assert error["code"] == "TOO_MANY_SAES" and f'unload(handle="{SET}")' in error["hint"]
    assert "client" not in error["hint"]
