"""Features that go to Neuronpedia and come back: publish_sae with features, describe_feature with
labels_file."""

import json
import shutil
from pathlib import Path

import pytest
from tests.server.helpers import call, refuse
from tests.server.knowing import KING, Bench

from saescope.features import LabelStore
from saescope_mcp.state import AppState

DATA = Path(__file__).parents[1] / "data" / "neuronpedia"
QUEEN = 0


@pytest.fixture
async def server(bench: Bench, glass_dir: Path) -> tuple[AppState, str]:
    return await bench.loaded(glass_dir, indexed=True)


@pytest.fixture
def writing(server: tuple[AppState, str], tmp_path: Path) -> tuple[AppState, str]:
    """The same with a folder to write to."""
    state, sae = server
    roots = {"write_roots": (tmp_path,), "read_roots": (*state.settings.read_roots, tmp_path)}
    state.settings = state.settings.model_copy(update=roots)
    return state, sae


async def test_features_are_published_after_a_dry_run_and_their_labels_come_back(
    writing: tuple[AppState, str], tmp_path: Path
) -> None:
    state, sae = writing
    await call(state, "label_feature", sae=sae, feature=KING, text="kings")
    asked = {"sae": sae, "features": [KING, QUEEN], "path": str(tmp_path / "out")}
    planned = await call(state, "publish_sae", **asked)
    assert planned["state"] == "planned" and not (tmp_path / "out").exists()
    assert planned["next"][0].startswith("publish_sae(") and "dry_run=false" in planned["next"][0]
    done = await call(state, "publish_sae", **asked, dry_run=False)
    folder = Path(done["target"])
    assert done["state"] == "done" and folder.is_relative_to(tmp_path / "out")
    for file in done["files"]:
        assert (folder / file["name"]).stat().st_size == file["n_bytes"]
    assert done["total_bytes"] == sum(file["n_bytes"] for file in done["files"])
    assert "2 features" in done["summary"] and "1 labels" in done["summary"]

    weights = state.saes[sae].weights_hash
    assert LabelStore().remove(LabelStore().of(weights, KING)[0].id)
    again = await call(state, "describe_feature", sae=sae, labels_file=str(folder))
    assert [card["feature"] for card in again["cards"]] == sorted([KING, QUEEN])
    label = next(card for card in again["cards"] if card["feature"] == KING)["label"]
    assert label["text"] == "kings" and label["source"] == "neuronpedia"
    assert any("written by strangers" in each for each in again["warnings"])
    listed = await call(
        state, "describe_feature", sae=sae, feature=KING, labels_file=str(folder / "list.json")
    )
    assert listed["label"]["text"] == "kings" and listed["feature"] == KING


async def test_a_file_of_another_sae_or_a_damaged_one_is_refused_with_its_field(
    writing: tuple[AppState, str], tmp_path: Path
) -> None:
    state, sae = writing
    shutil.copytree(DATA / "gpt2-small", tmp_path / "gpt2-small")
    for path, code in (
        (tmp_path / "gpt2-small", "NEURONPEDIA_OTHER_SAE"),
        (tmp_path / "torn.json", "NEURONPEDIA_FILE_UNREADABLE"),
        (Path("/etc/hostname"), "PATH_NOT_ALLOWED"),
    ):
        (tmp_path / "torn.json").write_text("{")
        error = await refuse(state, "describe_feature", sae=sae, labels_file=str(path))
        assert error["code"] == code and error["field"] == "labels_file", error
    assert LabelStore().of(state.saes[sae].weights_hash, 3) == []


async def test_a_list_with_a_feature_that_the_sae_lacks_stores_nothing(
    writing: tuple[AppState, str], tmp_path: Path
) -> None:
    state, sae = writing
    await call(state, "publish_sae", sae=sae, features=[KING], path=str(tmp_path), dry_run=False)
    (made,) = tmp_path.rglob("list.json")
    body = json.loads(made.read_text())
    body["features"][0]["description"] = "kings"
    body["features"].append({**body["features"][0], "index": 10**6})
    (tmp_path / "list.json").write_text(json.dumps(body))
    error = await refuse(
        state, "describe_feature", sae=sae, labels_file=str(tmp_path / "list.json")
    )
    assert error["code"] == "FEATURE_OUT_OF_RANGE"
    assert LabelStore().of(state.saes[sae].weights_hash, KING) == []


async def test_a_file_that_says_nothing_of_a_feature_says_so(
    writing: tuple[AppState, str], tmp_path: Path
) -> None:
    state, sae = writing
    await call(state, "publish_sae", sae=sae, features=[KING], path=str(tmp_path), dry_run=False)
    reply = await call(state, "describe_feature", sae=sae, feature=QUEEN, labels_file=str(tmp_path))
    assert "The file says nothing of these features." in reply["warnings"]


async def test_features_go_to_a_folder_of_a_loaded_sae_alone(
    writing: tuple[AppState, str], tmp_path: Path
) -> None:
    state, sae = writing
    error = await refuse(state, "publish_sae", sae=sae, features=[1], repo_id="a/b")
    assert error["field"] == "features"
    asked = {"sae": sae, "features": [KING], "path": str(tmp_path), "dry_run": False}
    await call(state, "publish_sae", **asked)
    error = await refuse(state, "publish_sae", **asked)
    assert error["code"] == "ALREADY_EXISTS" and error["field"] == "path"
    error = await refuse(state, "publish_sae", **{**asked, "path": "/nowhere/else"})
    assert error["code"] == "PATH_NOT_ALLOWED"
