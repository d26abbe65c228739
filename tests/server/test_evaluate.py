"""evaluate_sae and publish_sae on the tiny model."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.core.test_publish import EVALUATION
from tests.server.helpers import HOOK, call, refuse
from tests.server.test_jobs import DONE, a_run

from saescope.evals import evaluate
from saescope.load import load_sae
from saescope_mcp.state import AppState
from saescope_mcp.state.fences import trained_saes
from saescope_mcp.state.measured import keep_sparsity, recall

FEW = 800


@pytest.fixture(scope="module")
async def evaluation(
    tiny: AppState, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """The answer, and the home that it was kept in."""
    home = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(home))
        return await call(tiny, "evaluate_sae", sae=next(iter(tiny.saes)), n_tokens=FEW), home


@pytest.fixture
def evaluated(evaluation: tuple[dict[str, Any], Path], own_home: Path) -> dict[str, Any]:
    answer, home = evaluation
    shutil.copytree(home, own_home, dirs_exist_ok=True)
    return answer


def test_sparsity_is_kept_beside_saes_of_our_own_alone(own_home: Path, tmp_path: Path) -> None:
    found = replace(EVALUATION, n_fired=(0, EVALUATION.n_tokens // 4))
    for folder in (trained_saes() / "mine", tmp_path / "another's"):
        folder.mkdir(parents=True)
        keep_sparsity(str(folder), found)
    said = load_file(trained_saes() / "mine" / "sparsity.safetensors")["sparsity"]
    assert said.tolist() == pytest.approx([-10.0, math.log10(0.25)])
    assert not list((tmp_path / "another's").iterdir())
    keep_sparsity("", found)


async def test_an_evaluation_says_how_often_each_feature_fires(
    tiny: AppState, sae: str, evaluated: dict[str, Any]
) -> None:
    loaded = tiny.saes[sae]
    found = recall(loaded.weights_hash)
    assert found is not None and len(found.n_fired) == loaded.sae.cfg.d_sae
    assert sum(found.n_fired) / found.n_tokens == pytest.approx(evaluated["l0"], rel=1e-3)
    dead = sum(not n for n in found.n_fired) / len(found.n_fired)
    assert dead == pytest.approx(evaluated["dead_share"], rel=1e-3)


async def test_an_evaluation_is_what_the_core_measures(
    tiny: AppState, sae: str, evaluated: dict[str, Any]
) -> None:
    loaded = tiny.saes[sae]
    found = evaluate(loaded.model, loaded.sae, n_tokens=FEW)
    for name in (
        "l0",
        "explained_variance",
        "mse",
        "cosine",
        "ce_score",
        "kl_score",
        "dead_share",
        "dense_share",
        "n_tokens",
    ):
        assert evaluated[name] == pytest.approx(getattr(found, name), rel=1e-3), name
    assert evaluated["ce"].keys() == {"clean", "with_sae", "zero_ablation", "mean_ablation"}
    assert evaluated["baselines"].keys() == {"random_sae", "pca", "pca_rank_to_match"}
    assert evaluated["verdict"].startswith(f"{found.verdict.level}: ") and evaluated["reasons"][
        0
    ].keys() == {"finding", "advice"}
    assert (evaluated["state"], evaluated["evidence"], evaluated["hook_name"]) == (
        "done",
        "intervened",
        HOOK,
    )
    assert len(json.dumps(evaluated, separators=(",", ":")).encode()) / 3 <= 1500


async def test_details_and_pictures_are_for_those_who_ask(
    tiny: AppState, sae: str, evaluated: dict[str, Any]
) -> None:
    assert (
        evaluated["density"],
        evaluated["positions"],
        evaluated["saelens"],
        evaluated["pictures"],
    ) == ([], [], {}, [])
    judged = {"explained_variance", "ce_score", "kl_score", "over_random_sae", "over_pca"}
    assert evaluated["intervals"].keys() == judged
    full = await call(
        tiny,
        "evaluate_sae",
        sae=sae,
        n_tokens=FEW,
        baselines=False,
        picture=True,
        response_format="detailed",
    )
    assert full["density"] and full["positions"] and full["saelens"] and full["baselines"] is None
    assert (
        all(Path(path).read_bytes().startswith(b"<svg ") for path in full["pictures"])
        and len(full["pictures"]) == 2
    )


async def test_a_long_evaluation_is_a_job_with_the_same_result(
    tiny: AppState, sae: str, evaluated: dict[str, Any]
) -> None:
    running = await call(tiny, "evaluate_sae", sae=sae, n_tokens=FEW, wait_s=0.0)
    assert running["state"] == "running" and running["l0"] is None
    waiting = {"job_id": running["job_id"], "wait_s": 30}
    brief = await call(tiny, "job_status", **waiting)
    assert brief["state"] == "done" and brief["result"] is None
    assert evaluated["summary"].removesuffix(".") in brief["summary"]
    status = await call(tiny, "job_status", **waiting, response_format="detailed")
    assert brief["next"][0] == (
        f'job_status(job_id="{running["job_id"]}", response_format="detailed")'
    )
    assert (status["state"], status["result"]) == ("done", evaluated)
    # nothing is said twice, and the next step is not the call that was just made
    assert status["next"] == evaluated["next"] and status["warnings"] == []
    assert evaluated["summary"] not in status["summary"]


async def test_an_evaluation_that_cannot_be_is_refused(tiny: AppState, sae: str) -> None:
    assert (await refuse(tiny, "evaluate_sae", sae="zz"))["code"] == "SAE_NOT_LOADED"
    assert (await refuse(tiny, "evaluate_sae", sae=sae, dataset="/etc"))[
        "code"
    ] == "PATH_NOT_ALLOWED"
    assert (await refuse(tiny, "evaluate_sae", sae=sae, dataset="hf:a/b"))[
        "code"
    ] == "NOT_CACHED_OFFLINE"


async def test_a_cancelled_evaluation_leaves_the_model_as_before(
    tiny: AppState, sae: str, evaluated: dict[str, Any]
) -> None:
    running = await call(tiny, "evaluate_sae", sae=sae, n_tokens=50_000, wait_s=0.0)
    assert (await call(tiny, "cancel_job", job_id=running["job_id"]))["state"] == "cancelled"
    assert await call(tiny, "evaluate_sae", sae=sae, n_tokens=FEW) == evaluated


async def test_a_folder_is_published_with_the_metrics_of_the_last_evaluation(
    tiny: AppState, sae: str, sae_dir: Path, evaluated: dict[str, Any]
) -> None:
    target = sae_dir.parent / "published"
    plan = await call(tiny, "publish_sae", sae=sae, path=str(target))
    assert (plan["state"], plan["evaluated"], plan["warnings"]) == (
        "planned",
        True,
        [],
    ) and not target.exists()
    assert plan["next"] == [
        'use_tools(groups=["publish"])',  # a client that was not told of it needs this first
        f'publish_sae(sae="{sae}", path="{target}", dry_run=false)',
    ]
    done = await call(tiny, "publish_sae", sae=sae, path=str(target), dry_run=False)
    assert done["state"] == "done" and {
        file["name"]: file["n_bytes"] for file in done["files"]
    } == {path.name: path.stat().st_size for path in target.iterdir()}
    assert (
        f"| explained variance | {evaluated['explained_variance']:.4g} |"
        in (target / "README.md").read_text()
    )
    assert load_sae(target).weights_hash == tiny.saes[sae].weights_hash
    assert (await refuse(tiny, "publish_sae", sae=sae, path=str(target)))[
        "code"
    ] == "ALREADY_EXISTS"


async def test_an_evaluation_is_kept_for_other_processes(
    tiny: AppState, sae: str, evaluated: dict[str, Any]
) -> None:
    kept = recall(tiny.saes[sae].weights_hash)
    assert (
        kept is not None
        and kept.l0 == evaluated["l0"]
        and kept.verdict.reasons
        and kept.shrinkage.l2_ratio
    )


async def test_the_call_that_loads_a_publication_names_the_folder_of_the_model(
    tiny: AppState, sae_dir: Path, own_home: Path
) -> None:
    model, done = sae_dir.parent / "a model", {"path": str(sae_dir), "sae": "x"}
    model.mkdir()
    tiny.runs.table.add(
        a_run(state="done", result=done, settings={"model": str(model)}, **DONE), most_live=1
    )
    target = sae_dir.parent / "with-model"
    said = await call(tiny, "publish_sae", job_id="train-000001", path=str(target), dry_run=False)
    assert said["next"] == [said["load_call"]] == [f'load_sae(path="{target}", model="{model}")']
    assert said["load_command"] == f'saescope load-sae --path "{target}" --model "{model}"'
    assert str(model) not in (target / "README.md").read_text()


async def test_a_finished_training_is_published_by_its_job(
    tiny: AppState, sae_dir: Path, own_home: Path
) -> None:
    done = {"result": {"path": str(sae_dir), "sae": "x"}, "settings": {"model": "smollm2-135m"}}
    tiny.runs.table.add(a_run(state="done", **done, **DONE), most_live=1)
    plan = await call(
        tiny, "publish_sae", job_id="train-000001", path=str(sae_dir.parent / "elsewhere")
    )
    assert (
        plan["state"] == "planned"
        and plan["evaluated"] is False
        and "run evaluate_sae" in plan["warnings"][0]
    )
    assert plan["load_call"] == f'load_sae(path="{sae_dir.parent / "elsewhere"}")'
    tiny.runs.table.update("train-000001", state="failed")
    assert (
        await refuse(tiny, "publish_sae", job_id="train-000001", path=str(sae_dir.parent / "x"))
    )["code"] == "JOB_NOT_DONE"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"sae": "a", "job_id": "b", "path": "c"}, "CONFLICTING_ARGUMENTS"),
        ({"sae": "a"}, "MISSING_ARGUMENT"),
        ({"path": "a"}, "MISSING_ARGUMENT"),
        ({"sae": "a", "repo_id": "../x"}, "INVALID_REPO_ID"),
        ({"sae": "a", "repo_id": "owner/name"}, "NOT_CACHED_OFFLINE"),
        ({"sae": "a", "path": "/etc/x"}, "PATH_NOT_ALLOWED"),
    ],
)
async def test_what_cannot_be_published_is_refused(
    tiny: AppState, arguments: dict[str, Any], code: str
) -> None:
    assert (await refuse(tiny, "publish_sae", **arguments))["code"] == code
