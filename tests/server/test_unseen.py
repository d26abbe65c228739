"""Questions about models and SAEs that are not on this machine are answered from known sizes."""

from pathlib import Path

import pytest
from tests.server.helpers import call, refuse

from saescope import network
from saescope_mcp.state import AppState, Placement, Source, load_call

GEMMA_2_9B = 9_241_705_984
"""Weights, as its page on the hub says."""
HERE = {"release": "gemma-scope-9b-pt-res", "sae_id": "layer_20/width_16k/average_l0_68"}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def total_of(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    """A machine of so much memory, all of which may be filled."""
    monkeypatch.setattr("saescope_mcp.state.app_state.total_bytes", lambda _: int(n_bytes / 0.6))


@pytest.mark.parametrize(
    ("free", "fits"), [(10e9, None), (20e9, "bfloat16"), (40e9, "float32")], ids=str
)
async def test_find_saes_says_whether_a_model_would_fit(
    state: AppState, monkeypatch: pytest.MonkeyPatch, free: float, fits: str | None
) -> None:
    total_of(monkeypatch, free)
    reply = await call(state, "find_saes", model="google/gemma-2-9b", limit=1)
    fit = reply["fit"]
    assert (fit["n_parameters"], fit["counted"], fit["here"]) == (GEMMA_2_9B, True, False)
    assert fit["float32_bytes"] == 4 * GEMMA_2_9B
    assert fit["bfloat16_bytes"] == fit["disk_bytes"] == 2 * GEMMA_2_9B
    assert fit["fits"] == fits and reply["total"] == 1819
    said = f"fits as {fits}" if fits else "does not fit"
    assert said in reply["summary"] and "18.5 GB as bfloat16" in reply["summary"]


async def test_several_models_have_no_common_size_and_a_name_alone_is_said_to_be_one(
    state: AppState,
) -> None:
    assert "fit" not in await call(state, "find_saes", limit=100, model="gemma")
    reply = await call(state, "find_saes", model="someone/new-30b")
    assert reply["fit"]["counted"] is False and "about 30 B weights" in reply["summary"]


async def test_a_dry_run_of_a_published_sae_that_is_not_here_is_answered(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    total_of(monkeypatch, 20e9)
    reply = await call(state, "load_sae", **HERE, dry_run=True)
    assert (reply["state"], reply["fits"], reply["sae"]) == ("planned", False, None)
    assert (reply["d_in"], reply["d_sae"]) == (3584, 16384)
    sae_bytes = 4 * (2 * 3584 * 16384 + 2 * 16384 + 3584)
    assert reply["weights_bytes"] == sae_bytes
    assert reply["memory"]["need"] == pytest.approx(4 * GEMMA_2_9B + sae_bytes, rel=1e-6)
    assert 'With dtype="bfloat16" 18,718 MB: that fits.' in reply["summary"]
    assert "are not here" in reply["summary"] and "GB of disk" in reply["summary"]
    assert reply["next"][0] == "server_status()", "a load would fail here"


async def test_the_load_itself_says_what_is_here(
    state: AppState, tmp_path: Path, sae_dir: Path, glass_dir: Path
) -> None:
    mine = Source(path=str(sae_dir), model=str(glass_dir))
    state.known.remember("glassllm-en/mine", mine, Placement())
    own = tmp_path / "hub/models--jbloom--GPT2-Small-SAEs-Reformatted/snapshots/a1"
    (own / "blocks.8.hook_resid_pre").mkdir(parents=True)
    (own / "blocks.8.hook_resid_pre/sae_weights.safetensors").touch()
    error = await refuse(state, "load_sae", **HERE)
    assert error["code"] == "NOT_CACHED_OFFLINE"
    assert (
        'load_sae(release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre")' in error["hint"]
    )
    assert load_call(mine, Placement()) in error["hint"]


async def test_a_model_alone_leads_to_the_saes_that_are_of_it(state: AppState) -> None:
    reply = await call(state, "load_sae", model="google/gemma-2-9b", dry_run=True)
    assert reply["next"] == ['find_saes(model="google/gemma-2-9b")']
    assert "not of google/gemma-2-9b" in reply["warnings"][0]
    assert reply["memory"]["need"] > 4 * GEMMA_2_9B


async def test_a_training_on_a_model_that_is_not_here_is_estimated(state: AppState) -> None:
    site = "blocks.3.hook_resid_post"
    reply = await call(
        state, "train_sae", model="EleutherAI/pythia-70m", hook_name=site, dry_run=True
    )
    plan = reply["plan"]
    assert (reply["state"], plan["d_in"], plan["d_sae"]) == ("planned", 512, 4096)
    assert plan["memory_bytes"] > 4 * 70_426_624 and plan["disk_bytes"] > 2 * 70_426_624
    # 2 operations for each of 18.9 M weights in four of six layers, 8 for 512 * 4096
    read, step = 2 * 18_915_328 * 4 / 6, 8 * 512 * 4096
    assert plan["harvest_tokens_per_s"] / plan["step_tokens_per_s"] == pytest.approx(
        step / read, rel=1e-3
    )
    assert plan["eta_s"] == pytest.approx(plan["n_steps"] * 4096 / plan["tokens_per_s"], rel=1e-3)
    assert "not on this machine" in reply["summary"] and "rule" in reply["warnings"][0]
    assert reply["next"][0].startswith('train_sae(model="EleutherAI/pythia-70m"')
    assert not (await call(state, "job_status"))["jobs"]
    large = await call(state, "train_sae", model="gemma-2-27b", hook_name=site, dry_run=True)
    assert large["plan"]["fits"] is False and large["next"] == ['find_saes(model="gemma-2-27b")']


async def test_server_status_says_that_the_hub_takes_no_connection(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    online = AppState(state.settings.model_copy(update={"offline": False}))
    assert "HF_HUB_OFFLINE is set" in (await call(online, "server_status"))["summary"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    reply = await call(online, "server_status")
    assert reply["offline"] is True and "takes no connection" in reply["summary"]
    monkeypatch.setattr(network, "connects", lambda *_: True)
    reply = await call(online, "server_status")  # it asks anew
    assert reply["offline"] is False and "Offline" not in reply["summary"]
