"""load_sae, unload and jobs, on the tiny model."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import anyio
import pytest
from safetensors.torch import load_file, save_file
from tests.server.helpers import PROMPT, call, refuse, save_random_sae

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.schemas.common import SHORT_DIGITS
from saescope_mcp.schemas.load import LoadSaeReply
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.tools import load as load_module


async def load(state: AppState, sae_dir: Path, glass_dir: Path, **more: Any) -> dict[str, Any]:
    return await call(state, "load_sae", path=str(sae_dir), model=str(glass_dir), **more)


async def refused(state: AppState, tool: str, **arguments: Any) -> dict[str, Any]:
    """The error of a call after which the server goes on."""
    outcome = await next(each for each in ALL_TOOLS if each.name == tool).call(state, arguments)
    assert outcome.is_error, outcome.text
    return outcome.document


async def test_a_load_returns_a_readable_handle_and_a_check(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    reply = await load(state, sae_dir, glass_dir)
    assert reply["sae"] == "glassllm-en/2.resid_post/random"
    assert (reply["state"], reply["d_in"], reply["d_sae"], reply["k"], reply["architecture"]) == (
        "done",
        128,
        256,
        8,
        "topk",
    )
    assert reply["check"]["l0"] == 8 and reply["check"]["verdict"]
    assert (
        reply["memory"]["need"]
        == reply["weights_bytes"] + next(iter(state.models.values())).model.weights_bytes
    )


async def test_a_scan_measures_every_layer_and_the_peak_is_named(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    plain = await load(state, sae_dir, glass_dir)
    check, n_layers = plain["check"], next(iter(state.models.values())).model.n_layers
    assert "layers" not in check and check["peak"]["ce_score"] is None
    assert f"Of the site's {n_layers} layers it explains most at" in plain["summary"]
    assert check["clean_loss"] is not None and "check.clean_loss" not in LoadSaeReply.spare
    scanned = (await load(state, sae_dir, glass_dir, scan=True, wait_s=55))["check"]
    layers = scanned["layers"]
    assert [row["hook_name"] for row in layers] == [
        f"blocks.{i}.hook_resid_post" for i in range(n_layers)
    ]
    assert all(row["ce_score"] is not None for row in layers)
    best = max(layers, key=lambda row: row["explained_variance"])
    assert scanned["peak"] == best
    assert {key: scanned[key] for key in ("l0", "scale", "ce_score")} == {
        key: check[key] for key in ("l0", "scale", "ce_score")
    }


async def test_loading_twice_is_free(state: AppState, sae_dir: Path, glass_dir: Path) -> None:
    first, second = [await load(state, sae_dir, glass_dir) for _ in range(2)]
    assert first == second
    assert (len(state.models), len(state.saes), len(state.jobs.all())) == (1, 1, 1)


async def test_two_loads_at_once_are_one(state: AppState, sae_dir: Path, glass_dir: Path) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(load, state, sae_dir, glass_dir)
        group.start_soon(load, state, sae_dir, glass_dir)
    assert (len(state.saes), len(state.jobs.all())) == (1, 1)


async def test_two_saes_share_one_model(state: AppState, sae_dir: Path, glass_dir: Path) -> None:
    await load(state, sae_dir, glass_dir)
    other = save_random_sae(sae_dir.parent / "other", hook_name="blocks.1.hook_resid_pre")
    assert (await load(state, other, glass_dir))["sae"] == "glassllm-en/1.resid_pre/other"
    assert (len(state.models), len(state.saes)) == (1, 2)


async def test_a_concise_load_has_what_a_measurement_has(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    asked = {"path": str(sae_dir), "model": str(glass_dir)}
    concise = (await load_module.TOOLS[0].call(state, asked)).sent
    detailed = (
        await load_module.TOOLS[0].call(state, asked | {"response_format": "detailed"})
    ).sent
    assert concise["result_id"] == detailed["result_id"]
    assert concise["provenance"] == detailed["provenance"]["weights_hash"][:SHORT_DIGITS]


async def test_a_load_that_takes_longer_is_a_job_with_the_same_result(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    running = await load(state, sae_dir, glass_dir, wait_s=0)
    assert (running["state"], running["sae"]) == ("running", None)
    waiting = {"job_id": running["job_id"], "wait_s": 30}
    status = await call(state, "job_status", **waiting, response_format="detailed")
    assert (status["state"], status["sae"]) == ("done", "glassllm-en/2.resid_post/random")
    assert status["result"] == await load(state, sae_dir, glass_dir)


async def test_while_a_load_runs_its_handle_says_so(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    running = await load(state, sae_dir, glass_dir, wait_s=0)
    error = await refuse(state, "encode_text", sae="glassllm-en/2.resid_post/random", text="a")
    assert error["code"] == "SAE_NOT_LOADED" and running["job_id"] in error["hint"]
    await call(state, "job_status", job_id=running["job_id"], wait_s=30)


async def test_a_cancelled_load_leaves_nothing(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    with anyio.move_on_after(0):
        await load(state, sae_dir, glass_dir)
    await state.jobs.watch(state.jobs.all()[0], 5)
    assert (state.jobs.all()[0].state, state.models, state.saes) == ("cancelled", {}, {})
    assert (await load(state, sae_dir, glass_dir))["state"] == "done"


async def test_after_a_restart_a_known_handle_loads_itself_when_a_tool_needs_it(
    settings: Settings, sae_dir: Path, glass_dir: Path
) -> None:
    handle = (await load(AppState(settings), sae_dir, glass_dir))["sae"]
    state = AppState(settings)
    reply = await call(state, "top_features", sae=handle, text=PROMPT)
    assert reply["features"] and [*state.saes] == [handle]
    assert f"{handle} was not in memory: it was loaded for this call." in reply["warnings"]
    again = await call(state, "top_features", sae=handle, text=PROMPT)
    assert again["features"] == reply["features"] and not again["warnings"]
    assert (await load(state, sae_dir, glass_dir))["check"]["verdict"]


async def test_a_known_handle_whose_load_takes_longer_names_the_job_to_wait_for(
    settings: Settings, sae_dir: Path, glass_dir: Path
) -> None:
    handle = (await load(AppState(settings), sae_dir, glass_dir))["sae"]
    state = AppState(settings.model_copy(update={"lock_wait_s": 0.01}))
    for tool, more in (("top_features", {"text": PROMPT}), ("evaluate_sae", {})):
        error = await refused(state, tool, sae=handle, **more)
        assert error["code"] == "LOADING" and state.jobs.all()[0].id in error["hint"]
    assert len(state.jobs.all()) == 1
    status = await call(state, "job_status", job_id=state.jobs.all()[0].id, wait_s=30)
    assert (status["state"], status["sae"]) == ("done", handle)
    await call(state, "top_features", sae=handle, text=PROMPT)


async def test_a_known_handle_outside_the_fence_is_not_loaded(
    settings: Settings, sae_dir: Path, glass_dir: Path, tmp_path: Path
) -> None:
    handle = (await load(AppState(settings), sae_dir, glass_dir))["sae"]
    fenced = AppState(settings.model_copy(update={"read_roots": (tmp_path,)}))
    error = await refuse(fenced, "top_features", sae=handle, text="a")
    assert error["code"] == "PATH_NOT_ALLOWED" and not fenced.saes


async def test_a_load_waits_in_line_for_its_model(
    settings: Settings, sae_dir: Path, glass_dir: Path
) -> None:
    state = AppState(settings.model_copy(update={"lock_wait_s": 0.05}))
    loaded = await load(state, sae_dir, glass_dir)
    other = save_random_sae(sae_dir.parent / "late", hook_name="blocks.1.hook_resid_pre")
    slot = state.saes[loaded["sae"]].slot
    async with slot.turn():
        begun = await load(state, other, glass_dir, wait_s=0.5)
        assert begun["state"] == "running"
    status = await call(state, "job_status", job_id=begun["job_id"], wait_s=30)
    assert (status["state"], status["sae"]) == ("done", "glassllm-en/1.resid_pre/late")


async def test_unload_frees_and_the_handle_stays_known(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    reply = await load(state, sae_dir, glass_dir)
    gone = await call(state, "unload", handle=reply["sae"])
    assert (gone["freed_bytes"], gone["unloaded"]) == (reply["weights_bytes"], [reply["sae"]])
    assert (await call(state, "unload", handle=reply["sae"]))["freed_bytes"] == 0
    assert (await call(state, "unload", handle="glassllm-en"))["unloaded"] == ["glassllm-en"]
    assert (state.models, state.saes) == ({}, {})


async def test_unloading_a_model_takes_its_saes_along(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    handle = (await load(state, sae_dir, glass_dir))["sae"]
    assert (await call(state, "unload", handle="glassllm-en"))["unloaded"] == [
        handle,
        "glassllm-en",
    ]


async def test_a_load_over_the_budget_names_what_to_unload(
    settings: Settings, sae_dir: Path, glass_dir: Path
) -> None:
    state = AppState(settings)
    handle = (await load(state, sae_dir, glass_dir))["sae"]
    state.settings = settings.model_copy(
        update={"memory_share": state.room().used / state.room().total}
    )
    other = save_random_sae(sae_dir.parent / "third", seed=1)
    error = await refuse(state, "load_sae", path=str(other), model=str(glass_dir))
    assert error["code"] == "OUT_OF_MEMORY_BUDGET"
    assert f'unload(handle="{handle}")' in error["hint"]
    assert list(state.saes) == [handle]


async def test_too_many_models_are_refused(
    settings: Settings, sae_dir: Path, glass_dir: Path
) -> None:
    state = AppState(settings)
    await load(state, sae_dir, glass_dir)
    state.settings = settings.model_copy(update={"max_saes": 1})
    other = save_random_sae(sae_dir.parent / "fourth", seed=2)
    assert (await refuse(state, "load_sae", path=str(other), model=str(glass_dir)))[
        "code"
    ] == "TOO_MANY_SAES"


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_base_tuned_and_one_more_model_fit_where_memory_allows(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    models = [glass_dir]
    for name in ("tuned-model", "another-model"):
        models.append(copytree(glass_dir, sae_dir.parent / name))
        weights = load_file(models[-1] / "model.safetensors")
        save_file({key: t * 1.01 for key, t in weights.items()}, models[-1] / "model.safetensors")
    for model in models:
        await call(state, "load_sae", path=str(sae_dir), model=str(model), allow_mismatch=True)
    assert len(state.models) == 3
    free = state.room()
    share = free.used / free.total * 1.2
    state.settings = state.settings.model_copy(update={"memory_share": share})
    fourth = copytree(models[-1], sae_dir.parent / "fourth-model")
    error = await refuse(
        state, "load_sae", path=str(sae_dir), model=str(fourth), allow_mismatch=True
    )
    assert error["code"] == "OUT_OF_MEMORY_BUDGET"


async def test_an_sae_that_does_not_fit_leaves_no_model_behind(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    wide = save_random_sae(sae_dir.parent / "wide", d_in=64)
    assert (await refuse(state, "load_sae", path=str(wide), model=str(glass_dir)))[
        "code"
    ] == "DIM_MISMATCH"
    assert (state.models, state.saes) == ({}, {})


async def test_an_sae_without_a_hook_takes_the_one_that_is_given(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    mute = save_random_sae(sae_dir.parent / "mute", hook_name="")
    assert (await refuse(state, "load_sae", path=str(mute), model=str(glass_dir)))[
        "code"
    ] == "HOOK_UNKNOWN"
    reply = await load(state, mute, glass_dir, hook_name="blocks.0.hook_resid_post")
    assert reply["sae"] == "glassllm-en/0.resid_post/mute"


async def test_an_sae_without_a_model_asks_for_one(state: AppState, sae_dir: Path) -> None:
    assert (await refuse(state, "load_sae", path=str(sae_dir)))["code"] == "MODEL_UNKNOWN"


async def test_another_dtype_of_what_is_loaded_is_no_silent_reuse(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    await load(state, sae_dir, glass_dir)
    error = await refuse(
        state, "load_sae", path=str(sae_dir), model=str(glass_dir), dtype="bfloat16"
    )
    assert error["code"] == "ALREADY_LOADED" and 'unload(handle="glassllm-en")' in error["hint"]


async def test_a_dry_run_loads_nothing(state: AppState, sae_dir: Path, glass_dir: Path) -> None:
    plan = await load(state, sae_dir, glass_dir, dry_run=True)
    assert (plan["state"], plan["d_sae"], plan["check"]) == ("planned", 256, None)
    assert plan["memory"]["need"] > plan["weights_bytes"]
    assert (state.models, state.saes, state.jobs.all()) == ({}, {}, [])


async def test_a_file_of_the_folder_is_the_same_SAE(
    state: AppState, glass_dir: Path, sae_dir: Path
) -> None:
    folder = save_random_sae(sae_dir.parent / "by-its-file")
    for name in ("cfg.json", "sae_weights.safetensors", ""):
        reply = await call(state, "load_sae", path=str(folder / name), model=str(glass_dir))
        assert reply["sae"].endswith("/by-its-file")
    assert len(state.saes) == 1


@pytest.mark.parametrize("missing", ["cfg.json", "sae_weights.safetensors"])
async def test_a_folder_without_an_sae_says_what_is_missing(
    state: AppState, glass_dir: Path, sae_dir: Path, missing: str
) -> None:
    folder = save_random_sae(sae_dir.parent / f"without-{missing}")
    (folder / missing).unlink()
    error = await refuse(state, "load_sae", path=str(folder), model=str(glass_dir))
    assert error["code"] == "FILE_MISSING" and missing in error["message"]


async def test_what_the_files_leave_to_be_known_is_a_warning_of_every_load(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    folder = Path(copytree(sae_dir, sae_dir.parent / "later_positions"))
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"] |= {"seqpos_slice": [5, 20], "context_size": 64}
    (folder / "cfg.json").write_text(json.dumps(cfg | {"dtype": "bfloat16"}))
    replies = [await load(state, folder, glass_dir) for _ in range(2)]
    for reply in replies:
        assert sum("rounds them" in warning for warning in reply["warnings"]) == 1
        assert sum("positions 5 to 19 of" in warning for warning in reply["warnings"]) == 1


@pytest.mark.parametrize("k", [0, -3, 9999, float("nan")])
async def test_a_configuration_to_correct_is_named(
    state: AppState, sae_dir: Path, glass_dir: Path, k: float
) -> None:
    folder = Path(copytree(sae_dir, sae_dir.parent / f"k_{k}"))
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(cfg | {"k": k}))
    error = await refuse(state, "load_sae", path=str(folder), model=str(glass_dir))
    assert (error["code"], error["got"], error["allowed"]) == ("CONFIG_INVALID", str(k), "1..256")
    assert error["hint"] == "Correct k in cfg.json, then load it again."


async def test_a_model_is_loaded_no_further_than_the_site(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    planned = await load(state, sae_dir, glass_dir, up_to_site=True, dry_run=True)
    reply = await load(state, sae_dir, glass_dir, up_to_site=True)
    model = next(iter(state.models.values())).model
    assert (model.n_loaded, model.n_layers) == (3, 4)
    assert reply["memory"]["need"] == reply["weights_bytes"] + model.weights_bytes
    assert planned["memory"]["need"] == reply["memory"]["need"]
    assert "layers 0 to 2 of 4" in " ".join(reply["warnings"])
    assert reply["check"]["ce_score"] is None and reply["check"]["explained_variance"] is not None
    sae, text = reply["sae"], PROMPT
    tokens = (await call(state, "encode_text", sae=sae, text=text))["tokens"]
    top = (await call(state, "top_features", sae=sae, text=text))["features"]
    error = await refused(state, "attribute_logit", sae=sae, prompt=text)
    assert error["code"] == "LAYERS_NOT_LOADED"
    assert error["hint"].startswith('Call unload(handle="glassllm-en"), then load_sae again')
    again = await refused(state, "load_sae", path=str(sae_dir), model=str(glass_dir), device="cpu")
    assert (again["code"], again["field"]) == ("ALREADY_LOADED", "up_to_site")

    await call(state, "unload", handle="glassllm-en")
    await load(state, sae_dir, glass_dir)
    assert (await call(state, "encode_text", sae=sae, text=text))["tokens"] == tokens
    assert (await call(state, "top_features", sae=sae, text=text))["features"] == top


async def test_an_sae_of_a_later_layer_needs_more_of_the_model(
    state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    early = save_random_sae(sae_dir.parent / "early", hook_name="blocks.0.hook_resid_post")
    await load(state, early, glass_dir, up_to_site=True)
    error = await refused(
        state, "load_sae", path=str(sae_dir), model=str(glass_dir), up_to_site=True
    )
    assert (error["code"], error["got"], error["allowed"]) == ("ALREADY_LOADED", "3", "1")


@pytest.mark.parametrize("more", [{"scan": True}, {"layers": "all"}])
async def test_what_needs_every_layer_is_not_loaded_up_to_a_site(
    more: dict[str, Any], state: AppState, sae_dir: Path, glass_dir: Path
) -> None:
    error = await refused(
        state, "load_sae", path=str(sae_dir), model=str(glass_dir), up_to_site=True, **more
    )
    assert error["code"] in ("CONFLICTING_ARGUMENTS", "INVALID_CHOICE")
