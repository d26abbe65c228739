"""What the server keeps of its results, how they come back, and what keeping costs."""

import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.server.helpers import PROMPT, call, refuse
from tests.server.knowing import KING, Bench
from tests.server.test_document import CALLS
from tests.server.test_features import judged

from saescope import database
from saescope.ledger import KeptEntry, Ledger
from saescope.ledger.files import file_of
from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.tools import results

TEXT = {"text": PROMPT}


def kept_ids(state: AppState) -> list[str]:
    state.keeper.settle()
    return [row.result_id for row in Ledger().find(limit=100)[0]]


async def found(state: AppState, **asked: Any) -> dict[str, Any]:
    """What the list says of results like these."""
    outcome = await results.TOOLS[0].call(state, asked)
    assert not outcome.is_error, outcome.text
    return outcome.document


@pytest.fixture
def here(tiny: AppState, own_home: Path) -> AppState:
    """The tiny server on a home of its own."""
    return tiny


async def test_every_result_comes_back_as_it_was(here: AppState, sae: str) -> None:
    async with Client(build_server(state=here)) as client:
        for tool, said in CALLS.items():
            asked = {"sae": sae, **said, "response_format": "detailed"}
            sent = (await client.call_tool(tool, asked)).structured_content
            assert sent is not None
            back = await call(
                here, "results", result_id=sent["result_id"], response_format="detailed"
            )
            apart = {"next", "warnings"}
            whole = {name: item for name, item in back["document"].items() if name not in apart}
            assert whole == {name: item for name, item in sent.items() if name not in apart}, tool
            assert back["arguments"].keys() >= said.keys() and back["results"][0]["tool"] == tool
            read = await client.read_resource(f"sae://result/{sent['result_id']}")
            content: Any = read.contents[0]
            assert json.loads(content.text)["document"]["summary"] == sent["summary"]
            short = await call(here, "results", result_id=sent["result_id"])
            assert short["document"]["result_id"] == sent["result_id"]
            assert len(json.dumps(short)) <= len(json.dumps(back))


async def test_concise_and_detailed_calls_are_one_kept_result(here: AppState, sae: str) -> None:
    for form in ("concise", "detailed", "concise"):
        await call(here, "top_features", sae=sae, **TEXT, response_format=form)
    assert len(kept_ids(here)) == 1


async def test_results_are_listed_by_words_tool_sae_and_day(here: AppState, sae: str) -> None:
    await call(here, "top_features", sae=sae, text="The king went to the sea")
    await call(here, "encode_text", sae=sae, text="A queen")
    await call(here, "find_saes", query="gemma")
    assert (await call(here, "results"))["total"] == 3
    listed = await found(here, sae=sae, tool="encode-text")
    assert [row["tool"] for row in listed["results"]] == ["encode_text"]
    assert (await call(here, "results", text="king sea"))["total"] == 1
    assert (await call(here, "results", day="1999"))["total"] == 0
    page = await call(here, "results", limit=1)
    assert page["truncated"] and page["next_offset"] == 1 and "offset=1" in page["next"][-1]


@pytest.mark.parametrize(
    ("asked", "field", "named"),
    [
        ({"tool": "intervent"}, "tool", 'tool="intervene"'),
        ({"tool": "zzzz"}, "tool", "leave it out"),
        ({"day": "yesterday"}, "day", "2026-11"),
        ({"day": "2026-02-30"}, "day", "2026-11"),
        ({"day": "2026-1"}, "day", "2026-11"),
        ({"result_id": "0" * 12, "sae": "x"}, "sae", "result_id without sae"),
        ({"result_id": "0" * 12, "limit": 3}, "limit", "result_id without limit"),
        (
            {"result_id": "0" * 12, "investigation": "sea", "note": "n"},
            "investigation",
            "to name it in an investigation, add",
        ),
    ],
)
async def test_what_no_result_can_fit_is_refused_with_what_may(
    here: AppState, asked: dict[str, Any], field: str, named: str
) -> None:
    outcome = await results.TOOLS[0].call(here, asked)
    assert outcome.is_error and outcome.document["field"] == field
    assert named in f"{outcome.document['allowed']} {outcome.document['hint']}", outcome.document


async def test_arguments_that_are_cut_are_said_to_be(here: AppState, sae: str) -> None:
    texts = [f"{PROMPT} {i}" for i in range(9)]
    long = await call(here, "encode_text", sae=sae, texts=texts, limit=100, top_k=10)
    back = await call(here, "results", result_id=long["result_id"], response_format="detailed")
    assert len(back["arguments"]["texts"]) < 9
    said = f"Long arguments were cut: the resource sae://result/{long['result_id']} has all."
    assert said in back["warnings"]


async def test_an_investigation_names_results_that_are_kept(here: AppState, sae: str) -> None:
    one = (await call(here, "top_features", sae=sae, **TEXT))["result_id"]
    await call(here, "encode_text", sae=sae, **TEXT)
    made = await call(here, "results", investigation="sea", add=[one], note="the first look")
    assert [(row["result_id"], row["note"]) for row in made["results"]] == [(one, "the first look")]
    assert made["investigations"] == [{"name": "sea", "n": 1, "note": "", "gone": []}]
    assert "sea" in (await call(here, "results"))["summary"]
    error = await refuse(here, "results", investigation="sea", add=["0" * 12])
    assert error["code"] == "RESULT_NOT_FOUND" and "results()" in error["hint"]
    error = await refuse(here, "results", add=[one])
    assert error["code"] == "MISSING_ARGUMENT" and error["field"] == "investigation"
    error = await refuse(here, "results", investigation="see")
    assert error["code"] == "INVESTIGATION_NOT_FOUND" and "sea" in error["hint"]
    Ledger().forget([one])
    assert (await call(here, "results", investigation="sea"))["investigations"][0]["gone"] == [one]


async def test_an_altered_result_is_an_error_and_is_not_shown(here: AppState, sae: str) -> None:
    done = await call(here, "top_features", sae=sae, **TEXT)
    kept_ids(here)
    file = file_of(Ledger().folder, done["result_id"])
    file.write_text(file.read_text().replace(done["summary"][:10], "Feature 99"))
    error = await refuse(here, "results", result_id=done["result_id"])
    assert error["code"] == "RESULT_DAMAGED" and "top_features" in error["hint"]
    assert "99" not in json.dumps(error)
    async with Client(build_server(state=here)) as client:
        with pytest.raises(Exception, match="RESULT_DAMAGED"):
            await client.read_resource(f"sae://result/{done['result_id']}")


async def test_a_result_that_is_too_long_for_a_reply_is_cut_there_and_whole_as_a_resource(
    here: AppState, sae: str
) -> None:
    long = await call(here, "encode_text", sae=sae, text=PROMPT * 12, limit=100, top_k=10)
    async with Client(build_server(state=here)) as client:
        asked = {"result_id": long["result_id"], "response_format": "detailed"}
        result = await client.call_tool("results", asked)
        assert result.content[0].type == "text" and result.structured_content is not None
        assert len(result.content[0].text.encode()) <= 3 * here.settings.max_result_tokens
        read = await client.read_resource(f"sae://result/{long['result_id']}")
    content: Any = read.contents[0]
    whole = json.loads(content.text)["document"]
    cut = result.structured_content
    assert len(whole["tokens"]) > len(cut["document"]["tokens"]) > 1
    assert f"sae://result/{long['result_id']}" in cut["warnings"][0]


async def test_the_result_of_a_job_is_kept_under_the_id_that_it_is_told_with(
    here: AppState, sae: str
) -> None:
    begun = await call(here, "evaluate_sae", sae=sae, n_tokens=300, wait_s=0.0)
    waiting = {"job_id": begun["job_id"], "wait_s": 50.0, "response_format": "detailed"}
    done = await call(here, "job_status", **waiting)
    told = done["result"]["result_id"]
    back = await call(here, "results", result_id=told)
    assert back["results"][0]["tool"] == "evaluate_sae"
    assert kept_ids(here) == [told]


async def test_items_and_answers_of_a_quiz_never_come_back(bench: Bench, glass_dir: Path) -> None:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    quiz = await call(state, "quiz_feature", sae=sae, feature=KING)
    answers = judged(quiz["items"], "King")
    answers[0] = not answers[0]
    named = {"sae": sae, "feature": KING, "text": "King"}
    said = await call(state, "label_feature", **named, quiz_id=quiz["quiz_id"], answers=answers)
    assert said["missed"] and "wrong" in said["summary"]
    back = await call(state, "results", result_id=said["result_id"], response_format="detailed")
    assert "answers" not in back["arguments"] and back["document"]["missed"] == []
    assert "wrong" not in back["document"]["summary"]
    assert back["document"]["label"] == said["label"]
    kept_ids(state)
    files = "".join(file.read_text() for file in Ledger().folder.glob("results/*/*.json"))
    assert not any(item["text"] in files for item in quiz["items"])


async def test_a_result_about_the_texts_of_an_open_quiz_voids_it_when_it_comes_back(
    bench: Bench, glass_dir: Path
) -> None:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    quiz = await call(state, "quiz_feature", sae=sae, feature=KING)
    text = quiz["items"][0]["text"].replace("⟦", "").replace("⟧", "")
    tokens = [{"token": word} for word in re.findall(r"\s*\S+", text)]
    read = KeptEntry(  # by a server whose quizzes are elsewhere, before this quiz was made
        tool="encode_text",
        arguments={"sae": sae, "texts_file": "tales.txt"},
        document={"summary": "s", "tokens": tokens},
    )
    Ledger().keep(read)
    await call(state, "results", result_id=read.result_id)
    error = await refuse(
        state,
        "label_feature",
        sae=sae,
        feature=KING,
        text="King",
        quiz_id=quiz["quiz_id"],
        answers=judged(quiz["items"], "King"),
    )
    assert error["code"] == "QUIZ_USED"


async def test_nothing_is_kept_where_the_ledger_is_off(here: AppState, sae: str) -> None:
    off = AppState(here.settings.model_copy(update={"ledger": False}))
    off.models, off.saes = here.models, here.saes
    done = await call(off, "top_features", sae=sae, **TEXT)
    assert done["result_id"] and not kept_ids(off) and not Ledger().folder.exists()
    listed = await call(off, "results")
    assert listed["total"] == 0 and "SAESCOPE_LEDGER" in listed["warnings"][0]


async def test_a_home_that_cannot_be_written_costs_one_warning_and_no_result(
    here: AppState, sae: str, own_home: Path
) -> None:
    state = AppState(here.settings)
    state.models, state.saes = here.models, here.saes
    (own_home / "ledger").write_text("in the way")
    texts = [f"{PROMPT} {i}" for i in range(3)]
    told = list[str]()
    for text in texts:
        done = await call(state, "top_features", sae=sae, text=text)
        assert done["features"] and done["result_id"]
        told += [each for each in done["warnings"] if "ledger" in each] + state.keeper.settle()
    assert len(told) == 1 and "SAESCOPE_LEDGER=false" in told[0]
    (own_home / "ledger").unlink()
    done = await call(state, "top_features", sae=sae, text=texts[0])
    assert kept_ids(state) == [done["result_id"]]


async def test_a_table_that_another_program_keeps_locked_holds_up_no_call(
    here: AppState, sae: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.5)
    state = AppState(here.settings)
    state.models, state.saes = here.models, here.saes
    await call(state, "top_features", sae=sae, **TEXT)
    kept_ids(state)
    with closing(sqlite3.connect(Ledger().folder / "ledger.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        done = await call(state, "top_features", sae=sae, text="The sea")
        assert time.monotonic() - started < 0.4 and done["warnings"] == []
        assert "locked" in state.keeper.settle()[0]
        other.rollback()
    again = await call(state, "top_features", sae=sae, text="The sea")
    assert again["result_id"] == done["result_id"] and done["result_id"] in kept_ids(state)


async def test_keeping_takes_a_call_less_than_five_milliseconds(here: AppState) -> None:
    state = AppState(here.settings)
    rows = [{"feature": i, "score": i / 7, "text": f"row {i}"} for i in range(200)]
    taken = list[float]()
    for i in range(30):
        entry = KeptEntry(tool="t", arguments={"n": i}, document={"summary": "s", "rows": rows})
        started = time.perf_counter()
        assert entry.result_id and await state.keeper.keep(entry) == []
        taken.append(time.perf_counter() - started)
    assert sorted(taken)[15] < 0.005, taken
    assert len(kept_ids(state)) == 30


def test_what_is_not_kept_is_known_by_name() -> None:
    from saescope_mcp.binding import nothing

    assert {tool.name for tool in ALL_TOOLS if tool.keeps is nothing} == {
        "cancel_job",
        "export_report",
        "job_status",
        "quiz_feature",
        "results",
        "server_status",
        "unload",
    }


def test_the_bounds_of_the_ledger_are_settings(own_home: Path) -> None:
    settings = Settings.from_env(
        {"SAESCOPE_MAX_LEDGER_BYTES": "2000000", "SAESCOPE_MAX_LEDGER_DAYS": "7"}
    )
    ledger = AppState(settings).keeper.ledger
    assert (ledger.max_bytes, ledger.max_days, ledger.folder) == (
        2_000_000,
        7,
        own_home / "ledger",
    )
