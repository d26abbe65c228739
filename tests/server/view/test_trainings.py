"""What the trainings' page hears of runs: curves of one SAE and of a set, how often features fire;
and that hearing it keeps nothing."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import anyio
import httpx
import pytest
from tests.server.helpers import HOOK, call
from tests.server.test_train import SET, SMALL
from tests.server.view.conftest import Window
from tests.server.workers import installed

from saescope_mcp.state import AppState

pytestmark = pytest.mark.slow


class Trained(NamedTuple):
    """A training of one SAE and one of a set, and where they are."""

    home: Path
    one: str
    several: str


@pytest.fixture(scope="module")
def trained(
    shown: Window, glass_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    home = tmp_path_factory.mktemp("trained")
    state, given = AppState(shown.state.settings), {"model": str(glass_dir), "wait_s": 50.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(home))
        installed(patch)
        one = anyio.run(partial(call, state, "train_sae", **given, **SMALL, hook_name=HOOK))
        several = anyio.run(partial(call, state, "train_sae", **given, **SET))
    assert one["state"] == several["state"] == "done"
    yield Trained(home, one["job_id"], several["job_id"])
    state.close()


@pytest.fixture
def runs(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.setenv("SAESCOPE_HOME", str(trained.home))
    return trained


def told(shown: Window, *jobs: str, times: int = 1) -> dict[str, Any]:
    """What a live page heard last."""
    with httpx.stream("GET", f"{shown.url}events", params={"job": [*jobs]}, timeout=20) as events:
        lines = (line for line in events.iter_lines() if line)
        heard = [next(lines) for _ in range(times)]
    return json.loads(next(each for each in reversed(heard) if each.startswith("data:"))[5:])


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_curves_end_in_the_numbers_that_the_tool_says(shown: Window, runs: Trained) -> None:
    (run,) = told(shown, runs.one)["named"]
    names, rows = run["curves"]["fields"], run["curves"]["series"][""]
    state = AppState(shown.state.settings)
    done = anyio.run(
        partial(call, state, "job_status", job_id=runs.one, response_format="detailed")
    )
    latest = done["metrics"]["latest"]
    assert len(rows) > 5 and rows[-1][0] == 16 == latest["step"]
    for name, value in zip(names, rows[-1], strict=True):
        assert value == pytest.approx(latest[name], rel=1e-3), name
    assert run["saes"] == [done["sae"]] and run["summary"] == done["summary"]


def test_how_often_features_fire_adds_up_to_all_of_them(shown: Window, runs: Trained) -> None:
    (run,) = told(shown, runs.one)["named"]
    counted = run["densities"][""]
    assert sum(each["n_features"] for each in counted["bins"]) + counted["n_never"] == 64
    assert counted["n_tokens"] % 128 == 0 and counted["n_tokens"] <= 2048


def test_a_set_has_a_curve_of_each_sae_and_of_their_median(shown: Window, runs: Trained) -> None:
    (run,) = told(shown, runs.several)["named"]
    series, at = run["curves"]["series"], run["curves"]["fields"].index("explained_variance")
    assert [*series] == ["", "layer_0", "layer_2"] and len(run["members"]) == 2
    for middle, *each in zip(series[""], series["layer_0"], series["layer_2"], strict=True):
        assert middle[0] == each[0][0] == each[1][0]
        assert middle[at] == pytest.approx(median(row[at] for row in each), rel=1e-3)
    assert {*run["densities"]} == {"layer_0", "layer_2"}


def test_a_live_page_writes_nothing(shown: Window, runs: Trained) -> None:
    shown.call("job_status", job_id=runs.one, response_format="detailed")
    shown.state.keeper.settle()
    before = files(runs.home)
    told(shown, runs.one, runs.several, times=4)
    shown.state.keeper.settle()
    assert files(runs.home) == before and any("ledger" in path for path in before)


def test_runs_are_named_with_their_day_and_an_unknown_one_is_said(
    shown: Window, runs: Trained
) -> None:
    heard = told(shown, "no-such-job")
    there = {run["job_id"]: run["created"] for run in heard["runs"]}
    assert {runs.one, runs.several} <= {*there} and all(len(day) == 16 for day in there.values())
    assert heard["named"][0]["code"] and "no-such-job" in heard["named"][0]["message"]
