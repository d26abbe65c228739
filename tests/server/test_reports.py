"""Investigations made through the server, exported, and run again in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from tests.server.helpers import PROMPT, call, refuse, save_random_clt, save_random_sae

import saescope as ss
from saescope.ledger import ResultFilter
from saescope.reports import read_data, write_report
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.state.sources import KnownHandles

TEXTS = ["My sister went to her house.", "Our mother saw <b>her</b> & smiled."]


class Desk:
    """A server with the tiny model and an SAE of its own, which a test may change."""

    def __init__(self, state: AppState, folder: Path, sae: str) -> None:
        self.state, self.folder, self.sae = state, folder, sae
        self.path = str(folder / "report")

    async def say(self, tool: str, **arguments: Any) -> str:
        """The id of a result about the SAE."""
        return (await call(self.state, tool, sae=self.sae, **arguments))["result_id"]

    async def export(self, *results: str, **more: Any) -> dict[str, Any]:
        return await call(self.state, "export_report", path=self.path, results=[*results], **more)

    async def check(self) -> dict[str, Any]:
        """What a check says in the end: a process of its own takes its time."""
        asked = {"check": self.path, "wait_s": 55.0}
        while (done := await call(self.state, "export_report", **asked))["state"] == "running":
            pass
        return done


@pytest.fixture
def writing(tmp_path: Path, glass_dir: Path) -> Iterator[AppState]:
    roots: dict[str, Any] = {"read_roots": (tmp_path, glass_dir.parent), "write_roots": (tmp_path,)}
    state = AppState(Settings(**roots, offline=True))
    yield state
    state.close()


@pytest.fixture
async def own(writing: AppState, tmp_path: Path, glass_dir: Path) -> Desk:
    """A server whose SAE and model a test may change."""
    path, model = save_random_sae(tmp_path / "sae"), copytree(glass_dir, tmp_path / "glassllm-en")
    asked = {"path": str(path), "model": str(model), "wait_s": 55.0}
    while (loaded := await call(writing, "load_sae", **asked))["state"] != "done":
        pass  # on a crowded machine importing torch takes longer than a call waits
    return Desk(writing, tmp_path, loaded["sae"])


@pytest.fixture
def desk(tiny: AppState, sae: str, sae_dir: Path, own_home: Path) -> Desk:
    """The server that all tests share, remembered in this test's home; its SAE stays as it is."""
    KnownHandles().remember(sae, tiny.saes[sae].source, tiny.saes[sae].placement)
    return Desk(tiny, Path(tempfile.mkdtemp(dir=sae_dir.parent)), sae)


def run(path: Path) -> subprocess.CompletedProcess[str]:
    """A script in a process without a server or a ledger."""
    home = path.parent / "another_home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "SAESCOPE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=environment, check=False
    )


async def explained(desk: Desk) -> list[str]:
    """A first investigation: a ranking, an attribution, an ablation, an edit on several."""
    prompts = [PROMPT, "She went to the door", "A cat sat there"]
    edits = [{"feature": 5, "strength": 4.0}, {"feature": 6, "mode": "ablate"}]
    return [
        await desk.say("top_features", texts=TEXTS, k=4),
        await desk.say("attribute_logit", prompt=PROMPT, k=4, seed=3),
        await desk.say("intervene", prompt=PROMPT, edits=edits[1:], seed=2),
        await desk.say("intervene", prompts=prompts, edits=edits, unit="max"),
    ]


async def test_a_report_has_its_files_and_code_that_a_person_can_read(desk: Desk) -> None:
    done = await desk.export(*await explained(desk), title="A first look")
    assert set(done["files"]) == {"html", "markdown", "script", "notebook", "data"}
    assert done["n_values"] > 100 and not done.get("not_run")
    code = Path(done["files"]["script"]).read_text()
    compile(code, "rerun.py", "exec")
    assert "import saescope as ss" in code and "saescope_mcp" not in code and "Ledger" not in code
    assert '[ss.FeatureEdit(5, strength=4.0), ss.FeatureEdit(6, mode="ablate")]' in code
    cells = json.loads(Path(done["files"]["notebook"]).read_text())["cells"]
    compile("".join(line for cell in cells for line in code_of(cell)), "rerun.ipynb", "exec")


def code_of(cell: dict[str, Any]) -> list[str]:
    return [*cell["source"], "\n"] if cell["cell_type"] == "code" else []


async def test_strangers_words_are_shown_and_not_obeyed(desk: Desk) -> None:
    hostile = "<script>alert(1)</script> | `x` \u202e [a](http://b)"
    shown = await desk.say("top_features", text=hostile)
    name = "hostile"
    note = "<img src=x onerror=alert(1)>"
    await call(desk.state, "results", investigation=name, add=[shown], note=note)
    done = await call(desk.state, "export_report", path=desk.path, investigation=name)
    page = Path(done["files"]["html"]).read_text()
    assert "<script" not in page and "<img" not in page and "\u202e" not in page
    assert "default-src &#39;none&#39;" in page and "http://b" in page
    words = Path(done["files"]["markdown"]).read_text()
    assert "<img" not in words
    code = Path(done["files"]["script"]).read_text()
    assert "\u202e" not in code
    compile(code, "rerun.py", "exec")


async def test_a_sentence_with_a_number_names_the_result_that_holds_it(desk: Desk) -> None:
    done = await call(desk.state, "intervene", sae=desk.sae, prompt=PROMPT, edits=[{"feature": 5}])
    note = f"The effect is {done['effect']:.3f}. It was 77.123 before. Nothing more."
    await call(desk.state, "results", investigation="sea", note=note)
    await call(desk.state, "results", investigation="sea", add=[done["result_id"]])
    written = await call(desk.state, "export_report", path=desk.path, investigation="sea")
    first, second, third = (
        Path(written["files"]["markdown"]).read_text().split("\n\n")[2].split(". ")
    )
    assert f"#r-{done['result_id']}" in second and "no result here has 77.123" in third
    assert "The effect is" in first


async def test_nothing_is_overwritten_and_nothing_is_written_elsewhere(desk: Desk) -> None:
    shown = await desk.say("top_features", text=PROMPT)
    Path(desk.path).mkdir()
    Path(desk.path, "mine.txt").write_text("mine")
    error = await refuse(desk.state, "export_report", path=desk.path, results=[shown])
    assert error["code"] == "REPORT_EXISTS"
    assert [each.name for each in Path(desk.path).iterdir()] == ["mine.txt"]
    outside = str(desk.folder.parents[1] / "outside")
    error = await refuse(desk.state, "export_report", path=outside, results=[shown])
    assert error["code"] == "PATH_NOT_ALLOWED" and not Path(outside).exists()


async def test_what_cannot_be_run_again_is_named_loudly_with_the_reason(desk: Desk) -> None:
    shown = await desk.say("top_features", text=PROMPT)
    await desk.say("label_feature", feature=5, text="the sea")
    desk.state.keeper.settle()
    kept, _ = ss.Ledger().find(ResultFilter(tool="label_feature"))
    done = await desk.export(shown, kept[0].result_id)
    (left,) = done["not_run"]
    assert left["tool"] == "label_feature" and "label" in left["why"]
    assert "NOT run again" in done["warnings"][0]
    for kind in ("html", "markdown", "script"):
        assert left["why"] in Path(done["files"][kind]).read_text().replace("\\", "")


async def test_a_report_that_was_changed_is_refused(desk: Desk) -> None:
    shown = await desk.say("top_features", text=PROMPT)
    data = Path((await desk.export(shown))["files"]["data"])
    data.write_text(data.read_text().replace('"score": ', '"score": 9', 1))
    error = await refuse(desk.state, "export_report", check=desk.path)
    assert error["code"] == "REPORT_DAMAGED" and shown in error["message"]


async def test_a_report_cannot_make_the_server_read_what_it_may_not(desk: Desk) -> None:
    shown = await desk.say("top_features", text=PROMPT)
    data = Path((await desk.export(shown))["files"]["data"])
    said = json.loads(data.read_text())
    said["sources"][desk.sae]["path"] = "/etc"
    data.write_text(json.dumps(said))
    error = await refuse(desk.state, "export_report", check=desk.path)
    assert error["code"] == "PATH_NOT_ALLOWED"


async def test_a_text_that_is_gone_is_named_and_a_strangers_report_reads_no_other(
    desk: Desk,
) -> None:
    shown = await ask(desk, "top_features", {"texts_file": "lines.txt"})
    lines = desk.folder / "lines.txt"
    data = Path((await desk.export(shown))["files"]["data"])
    assert hashlib.sha256(lines.read_bytes()).hexdigest() in data.read_text()
    lines.unlink()
    desk.path = str(desk.folder / "second")
    (left,) = (await desk.export(shown))["not_run"]
    assert left["why"] == f"its texts are those of {lines}, which is gone"
    said, stranger = read_data(data), desk.folder / "stranger"
    (entry,) = said.entries
    origin = entry.document["provenance"] | {"files": {"/etc/passwd": "0" * 64}}
    planted = replace(entry, document=entry.document | {"provenance": origin})
    write_report(stranger, replace(said, entries=[planted]))
    error = await refuse(desk.state, "export_report", check=str(stranger))
    assert error["code"] == "PATH_NOT_ALLOWED"


@pytest.mark.slow
async def test_files_that_are_gone_are_named(own: Desk) -> None:
    shown = await own.say("top_features", text=PROMPT)
    await own.export(shown)
    (own.folder / "sae").rename(own.folder / "elsewhere")
    error = await refuse(own.state, "export_report", check=own.path)
    assert error["code"] == "SOURCES_GONE" and str(own.folder / "sae") in error["message"]
    own.path = str(own.folder / "second")
    done = await own.export(shown)
    assert "is gone" in done["not_run"][0]["why"]


async def test_export_takes_results_or_checks_a_report(desk: Desk) -> None:
    assert (await refuse(desk.state, "export_report"))["code"] == "MISSING_ARGUMENT"
    both = {"path": desk.path, "check": desk.path, "results": ["0123456789ab"]}
    assert (await refuse(desk.state, "export_report", **both))["code"] == "CONFLICTING_ARGUMENTS"
    missing = {"path": desk.path, "results": ["0123456789ab"]}
    assert (await refuse(desk.state, "export_report", **missing))["code"] == "RESULT_NOT_FOUND"
    nowhere = {"check": str(desk.folder / "none")}
    assert (await refuse(desk.state, "export_report", **nowhere))["code"] == "REPORT_NOT_FOUND"


STEERED: dict[str, Any] = {"features": [{"feature": 5, "strength": 2.0}], "max_new_tokens": 4}
PAIRS = {
    "texts": [f"{start} {end}" for start in TEXTS for end in ("It was so.", "Then she came.")] * 2,
    "against": ["My brother went to his house.", "Our father saw him and his dog."] * 4,
}
PLANTED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "reading": [
        ("encode_text", {"texts": TEXTS}),
        ("encode_text", {"texts": TEXTS, "features": [5, 6], "pattern": "her"}),
        ("encode_text", {"text": PROMPT, "positions": [2, -1], "top_k": 5}),
    ],
    "lens": [("encode_text", {"text": PROMPT, "lens": each}) for each in ("logit", "jacobian")],
    "files": [
        ("top_features", {"texts_file": "rows.csv", "texts_column": "said", "k": 3}),
        ("encode_text", {"texts_file": "lines.txt", "limit": 3}),
        ("encode_text", {"texts_file": "lines.txt", "features": [5]}),
        ("find_features", {"texts_file": "rows.csv", "label_column": "side", "k": 2}),
        ("find_features", {"texts_file": "lines.txt", "against_file": "others.txt", "k": 2}),
        ("evaluate_sae", {"dataset": "corpus", "n_tokens": 200, "baselines": False}),
        (
            "encode_text",
            {"dataset": "rows.csv", "features": [5], "text_column": "said", "label_column": "yes"},
        ),
    ],
    "ranking": [
        ("top_features", {"texts": TEXTS, "rank_by": "mean", "k": 3, "offset": 2}),
        ("top_features", {**PAIRS, "rank_by": "contrast", "k": 3}),
    ],
    "explaining": [
        ("attribute_logit", {"prompt": PROMPT, "k": 3, "measure": "logit"}),
        ("attribute_logit", {"prompt": PROMPT, "target": " of", "against": ".", "seed": 7}),
        ("attribute_logit", {"prompt": PROMPT, "method": "integrated_gradients", "k": 2}),
    ],
    "editing": [
        ("intervene", {"prompt": PROMPT, "edits": [{"feature": 5, "positions": [2, 3]}]}),
        ("intervene", {"prompts": [PROMPT, "A cat"], "edits": [{"feature": 6, "mode": "clamp"}]}),
    ],
    "steering": [
        ("steer_generate", {"prompt": PROMPT, "concept_tokens": [" she"], **STEERED}),
        ("steer_generate", {"prompt": PROMPT, "strengths": [0.5, 1.0], **STEERED}),
        ("steer_generate", {"prompt": PROMPT, "temperature": 1.0, "n_samples": 2, **STEERED}),
    ],
    "finding": [
        ("find_features", {"texts": TEXTS, "k": 3}),
        ("find_features", {"tokens": [" she"], "k": 3}),
        ("find_features", {**PAIRS, "k": 3, "unconfirmed": True}),
        ("find_features", {"causes": [" she"], "k": 3}),
    ],
    "searching": [
        (
            "steer_search",
            {
                **{"features": [{"feature": 5}], "concept": [" she"], "max_new_tokens": 2},
                **{"prompts": [PROMPT, "The sea"], "held_out": ["A king", "She saw"]},
            },
        ),
    ],
    "comparing": [("compare_prompts", {"a": "The man said", "b": "The woman said", "k": 3})],
    "judging": [
        ("describe_feature", {"feature": 5}),
        ("evaluate_sae", {"n_tokens": 300, "seed": 4}),
        ("trace_circuit", {"prompt": "The old man", "max_features": 20, "n_measured": 3}),
    ],
}


FILES = ("texts_file", "against_file", "dataset")


def with_files(desk: Desk, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with places of files, which are written here."""
    sides = (PAIRS["texts"], PAIRS["against"])
    rows = [f'"{text}",{side},{int(not side)}' for side in (0, 1) for text in sides[side]]
    (desk.folder / "corpus").mkdir(exist_ok=True)
    for name, lines in {
        "rows.csv": ["said,side,yes", *rows],
        "lines.txt": sides[0],
        "others.txt": sides[1],
        "corpus/one.txt": [text for pair in zip(*sides, strict=True) for text in pair] * 200,
    }.items():
        (desk.folder / name).write_text("\n".join(lines))
    places = {name: str(desk.folder / arguments[name]) for name in FILES if name in arguments}
    return arguments | places


async def ask(desk: Desk, tool: str, arguments: dict[str, Any]) -> str:
    """The id of a result that may take its time."""
    arguments = with_files(desk, arguments)
    while (done := await call(desk.state, tool, sae=desk.sae, **arguments)).get(
        "state"
    ) == "running":
        pass
    return done["result_id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=pytest.mark.thorough if i % 3 else ())
        for i, each in enumerate(PLANTED)
    ],
)
async def test_an_investigation_is_computed_again_by_its_script(desk: Desk, name: str) -> None:
    results = [await ask(desk, tool, arguments) for tool, arguments in PLANTED[name]]
    done = await desk.export(*results, title=name)
    assert not done.get("not_run")
    ran = run(Path(done["files"]["script"]))
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-2000:]
    assert f"{done['n_values']} of {done['n_values']} values are the same" in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["cross-layer", pytest.param("residual", marks=pytest.mark.thorough)]
)
async def test_the_circuit_of_a_set_and_an_edit_in_it_are_computed_again(
    kind: str, writing: AppState, tmp_path: Path, glass_dir: Path
) -> None:
    place = tmp_path / "set"
    if kind == "residual":
        for n in range(4):
            hook_name = f"blocks.{n}.hook_resid_post"
            save_random_sae(place / f"layer_{n}", hook_name=hook_name, seed=n)
    else:
        save_random_clt(place)
    where: dict[str, Any] = {"path": str(place), "model": str(glass_dir), "layers": "all"}
    while (loaded := await call(writing, "load_sae", **where, allow_mismatch=True))["state"] in (
        "running"
    ):
        pass
    desk = Desk(writing, tmp_path, loaded["sae"])
    traced = {"prompt": "The old man", "max_features": 20, "n_measured": 3}
    results = [await ask(desk, "trace_circuit", traced)]
    desk.sae = f"glassllm-en/1.{loaded['sae'].partition('.')[2]}"
    results.append(await desk.say("intervene", prompt=PROMPT, edits=[{"feature": 5}]))
    done = await desk.export(*results)
    assert not done.get("not_run")
    ran = run(Path(done["files"]["script"]))
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-2000:]


@pytest.mark.slow
async def test_the_cells_of_a_notebook_compute_the_same(desk: Desk) -> None:
    done = await desk.export(await desk.say("intervene", prompt=PROMPT, edits=[{"feature": 5}]))
    cells = json.loads(Path(done["files"]["notebook"]).read_text())["cells"]
    file = Path(desk.path, "cells.py")
    file.write_text("".join(line for cell in cells for line in code_of(cell)))
    ran = run(file)
    assert ran.returncode == 0 and "Reproduced." in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
async def test_script_and_check_reproduce_every_number(desk: Desk) -> None:
    done = await desk.export(*await explained(desk))
    ran = run(Path(done["files"]["script"]))
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "DIFFERS" not in ran.stdout and "Reproduced." in ran.stdout
    checked = await desk.check()
    assert checked["reproduced"] and checked["n_same"] == done["n_values"]
    assert not checked["n_moved"] and not checked.get("changed")


def add(folder: Path, tensor: str, place: tuple[int, ...], amount: float) -> None:
    """Change one number of a file of weights."""
    from safetensors.torch import load_file, save_file

    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors[tensor][place] += amount
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.slow
async def test_one_changed_weight_of_an_sae_or_a_model_and_a_changed_text_are_noticed_and_named(
    own: Desk,
) -> None:
    shown = await ask(own, "top_features", {"texts_file": "lines.txt"})
    await own.export(shown, await own.say("top_features", text=PROMPT))
    add(own.folder / "glassllm-en", "model.embed_tokens.weight", (7, 3), 1e-3)
    checked = await own.check()
    named = [f"weights of {name}" for name in ("the model glassllm-en", own.sae)]
    assert [each["what"] for each in checked["changed"]] == named[:1]
    add(own.folder / "sae", "W_dec", (7, 0), 0.5)
    lines = own.folder / "lines.txt"
    lines.write_text(lines.read_text().replace("sister", "brother"))
    checked = await own.check()
    assert not checked["reproduced"]
    assert [each["what"] for each in checked["changed"]] == [*named, f"texts of {lines}"]
    (left,) = checked["not_run"]
    assert (left["result_id"], left["why"]) == (
        shown,
        f"its texts are those of {lines}, which has changed since",
    )


@pytest.mark.slow
async def test_a_changed_seed_and_a_changed_version_are_noticed(desk: Desk) -> None:
    """A result that says another seed or version than it was computed with."""
    shown = await desk.say("attribute_logit", prompt=PROMPT, k=4, seed=3)
    await desk.export(shown)
    data = read_data(Path(desk.path))
    (entry,) = data.entries
    versions = {**entry.document["provenance"]["versions"], "torch": "1.0.0"}
    origin = entry.document["provenance"] | {"versions": versions}
    other = replace(
        entry,
        arguments=entry.arguments | {"seed": 4},
        document=entry.document | {"provenance": origin},
    )
    folder = desk.folder / "other"
    write_report(folder, replace(data, entries=[other]))
    checked = ss.check_report(folder)
    assert not checked.reproduced
    assert [each.what for each in checked.changed] == ["version of torch"]
    assert all("control" in each.name or "sample" in each.name for each in checked.moved)
    assert any(each.name == "joint.control.mean" for each in checked.moved)
