"""What a person sees of each tool's result: what one wants first, at any width."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.cells import cell_len
from tests.server.helpers import PROMPT

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.cli.calls import FOREVER_S
from saescope_mcp.cli.following import fields_of
from saescope_mcp.cli.renderers import RENDERERS
from saescope_mcp.cli.renderers.parts import bar, spark
from saescope_mcp.cli.show import show
from saescope_mcp.cli.terminal import Terminal
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.cli.warm import CommandOutcome
from saescope_mcp.jobs import Run
from saescope_mcp.schemas.index import IndexFeaturesReply, IndexSummary
from saescope_mcp.schemas.status import JobRow, JobStatusReply
from saescope_mcp.schemas.train import CancelJobReply, TrainSaeReply
from saescope_mcp.state import AppState

TOOLS = {tool.name: tool for tool in ALL_TOOLS}
Document = dict[str, Any]


def seen(tool: str, document: Document, *, width: int = 80, color: str | None = None) -> str:
    """What stands on a terminal; without a width, in a pipe."""
    file = io.StringIO()
    where: Any = {"width": width, "force_terminal": True, "color_system": color} if width else {}
    show(CommandOutcome(document, is_error=False), Terminal(file=file, **where), VERBS[tool])
    return file.getvalue()


async def document_of(state: AppState, tool: str, **arguments: Any) -> Document:
    outcome = await TOOLS[tool].call(state, arguments)
    assert not outcome.is_error, outcome.document
    return outcome.document


def dumped(reply: Any) -> Document:
    return json.loads(reply.model_dump_json())


HISTORY = [
    {"explained_variance": n / 10, "l0": 40 - n, "loss": 9 - n / 2, "dead_share": 0.1}
    for n in range(8)
]
MADE: list[tuple[str, Any]] = [
    ("train_sae", TrainSaeReply(summary="s", state="done", job_id="train-1", sae="m/1.x")),
    ("cancel_job", CancelJobReply(summary="s", job_id="j", state="cancelled", checkpoint="c")),
    (
        "job_status",
        JobStatusReply(
            summary="s",
            total=1,
            job_id="train-1",
            tool="train_sae",
            state="running",
            message="training",
            step=5,
            n_steps=9,
            metrics={"latest": HISTORY[-1], "history": HISTORY},
            jobs=[
                JobRow(
                    job_id="train-1",
                    tool="train_sae",
                    state="running",
                    message="training",
                    elapsed_s=3.0,
                )
            ],
        ),
    ),
    (
        "index_features",
        IndexFeaturesReply(
            summary="s",
            state="done",
            indexes=[
                IndexSummary(
                    sae="m/1.x",
                    weights_hash="h",
                    n_features=16,
                    n_fired=12,
                    median_density=0.01,
                    n_tokens=1000,
                    n_contexts=9,
                    path="/p",
                )
            ],
        ),
    ),
]


EDITS = [{"feature": 7, "strength": 2}]
CALLS: list[tuple[str, Document]] = [
    ("find_saes", {"query": "gpt2 resid"}),
    ("server_status", {}),
    ("load_sae", {"dry_run": True}),
    ("encode_text", {"text": PROMPT}),
    ("encode_text", {"texts": [PROMPT, "a cat"], "features": [7, 3]}),
    ("top_features", {"text": PROMPT}),
    ("attribute_logit", {"prompt": PROMPT, "k": 3, "n_controls": 1}),
    ("trace_circuit", {"prompt": PROMPT, "max_features": 20, "n_measured": 4}),
    ("compare_prompts", {"a": "The sea", "b": "The man", "k": 3, "n_controls": 1}),
    ("intervene", {"prompt": PROMPT, "edits": EDITS, "n_controls": 1}),
    ("intervene", {"prompts": [PROMPT, "a cat sat"], "edits": EDITS, "n_controls": 1}),
    ("describe_feature", {"feature": 7}),
    ("describe_feature", {"features": [7, 3]}),
    ("label_feature", {"feature": 7, "text": "cats"}),
]
STEERED = {"prompt": PROMPT, "features": EDITS, "max_new_tokens": 4}
LONG_CALLS: list[tuple[str, Document]] = [
    ("steer_generate", STEERED),
    ("steer_generate", {**STEERED, "strengths": [1, 2]}),
    (
        "steer_search",
        {
            "features": [{"feature": 7}, {"feature": 3}],
            "concept": [" a"],
            "prompts": [PROMPT, "a cat sat"],
            "held_out": ["a dog and", "the sea was"],
            "max_new_tokens": 3,
        },
    ),
    ("find_features", {"tokens": [" a"]}),
    ("find_features", {"texts": [PROMPT, "a b"], "against": ["c d", "e f"]}),
    ("evaluate_sae", {"n_tokens": 64, "baselines": False}),
    ("publish_sae", {"path": "new"}),
]


def test_every_tool_has_its_own_renderer() -> None:
    assert RENDERERS.keys() == TOOLS.keys()
    assert len(set(RENDERERS.values())) == len(RENDERERS)


@pytest.mark.parametrize(("tool", "reply"), MADE, ids=[tool for tool, _ in MADE])
def test_a_job_fits_the_terminal_and_is_no_dump(tool: str, reply: Any) -> None:
    check_shown(tool, dumped(reply))


@pytest.mark.parametrize(
    "listed", [CALLS, pytest.param(LONG_CALLS, marks=pytest.mark.slow)], ids=["short", "long"]
)
async def test_every_result_fits_the_terminal_and_is_no_dump(
    listed: list[tuple[str, Document]],
    tiny: AppState,
    sae: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"max_wait_s": FOREVER_S, "read_anywhere": True}
    settings = tiny.settings.model_copy(update=changes)
    for tool, arguments in listed:
        properties = VERBS[tool].properties
        patient = {"wait_s": FOREVER_S} if "wait_s" in properties else {}
        which = {"sae": sae} if "sae" in properties else {}
        state = tiny if which else AppState(settings)
        monkeypatch.setattr(state, "settings", settings)
        check_shown(tool, await document_of(state, tool, **which, **patient, **arguments))


def without_one(value: Any) -> Iterator[Any]:
    """The value with null in the place of each of its parts; of a list only the first item."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield {**value, name: None}
            yield from ({**value, name: less} for less in without_one(part))
    elif isinstance(value, list) and value:
        yield from ([less, *value[1:]] for less in without_one(value[0]))


def wrong_in(tool: str, document: Document) -> set[tuple[int | str, ...]]:
    """The places at which it is no reply of the tool; fields that are left out where they are empty
    are missing in every document."""
    try:
        TOOLS[tool].reply.model_validate_json(json.dumps(document))
    except ValidationError as error:
        return {problem["loc"] for problem in error.errors()}
    return set()


def check_shown(tool: str, document: Document) -> None:
    known, n_tried = wrong_in(tool, document), 0
    for less in without_one({**document, "provenance": None}):
        if wrong_in(tool, less) <= known:
            n_tried += 1
            seen(tool, less)
    assert n_tried >= 3
    for width in (80, 50, 30):
        shown = seen(tool, {**document, "next": []}, width=width)
        assert max(map(cell_len, shown.splitlines())) <= width, (tool, shown)
        assert not any(dump in shown for dump in ("{", "None", "quantiles")), (tool, shown)
    piped = seen(tool, document, width=0)
    assert "\x1b" not in piped and all(line == line.rstrip() for line in piped.splitlines())


@pytest.mark.parametrize("n_controls", [3, 19])
async def test_the_controls_of_an_edit_say_what_the_summary_says_of_them(
    tiny: AppState, sae: str, n_controls: int
) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "edits": EDITS, "n_controls": n_controls}
    document = await document_of(tiny, "intervene", sae=sae, **asked)
    shown = seen("intervene", document, width=200).splitlines()
    (line,) = [line for line in shown if line.startswith("effect ")]
    told = "(outside these)" if document["control"]["outside"] else "(not outside these)"
    assert line.endswith("(too few to tell)" if n_controls < 19 else told)
    assert re.search(line.rpartition("(")[2].rstrip(")"), document["summary"])


async def test_a_text_is_a_map_of_heat_in_colour_and_bars_without(tiny: AppState, sae: str) -> None:
    document = await document_of(tiny, "encode_text", sae=sae, text=PROMPT)
    hottest = max(document["tokens"], key=lambda row: row["features"][0]["activation"])
    coloured = seen("encode_text", document, color="truecolor")
    assert f"48;2;214;90;24m{hottest['token']}" in coloured
    plain = seen("encode_text", document, width=0)
    row = next(line for line in plain.splitlines() if line.split()[:1] == [str(hottest["pos"])])
    assert "█" * 8 in row and "shade" not in plain


async def test_steered_texts_stand_side_by_side_where_there_is_room(
    tiny: AppState, sae: str
) -> None:
    document = await document_of(
        tiny,
        "steer_generate",
        sae=sae,
        prompt=PROMPT,
        features=[{"feature": 7, "strength": 2}],
        max_new_tokens=4,
        n_controls=1,
    )
    wide = seen("steer_generate", document).splitlines()
    assert any("plain" in line and "steered 1" in line and "control" in line for line in wide)
    for width in (0, 50):
        lines = seen("steer_generate", document, width=width).splitlines()
        assert not any("plain" in line and "steered 1" in line for line in lines)


def test_a_job_that_is_done_shows_what_came_of_it() -> None:
    done = dumped(MADE[3][1])
    status = {**dumped(MADE[2][1]), "tool": "index_features", "state": "done", "result": done}
    assert "12 of 16" in seen("job_status", status)


def test_a_training_has_its_curves() -> None:
    tool, reply = MADE[2]
    shown = seen(tool, dumped(reply))
    rows = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert rows["explained variance"].endswith("▁▂▃▄▅▆▇█")
    assert rows["L0"].endswith("█▇▆▅▄▃▂▁")
    run = Run(
        id="train-1",
        tool="train_sae",
        state="running",
        created=0.0,
        queued=0.0,
        heartbeat=0.0,
        progress={"metrics": {"latest": HISTORY[-1], "history": HISTORY}},
    )
    assert "EV 0.700 ▁▂▃▄▅▆▇█" in fields_of(run)["measured"]


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([0, 1], "▁█"), ([3, 3], "▁▁"), ([], ""), ([None, 1, 2], " ▁█"), ([None], "")],
)
def test_a_curve_is_drawn_in_one_line(values: list[float | None], drawn: str) -> None:
    assert spark(values) == drawn


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [bar(value, 8.0) for value in (0.0, 0.01, 4.0, 8.0)] == ["", "█", "████", "█" * 8]
    assert bar(0.0, 0.0) == ""


def test_a_narrow_table_is_a_list() -> None:
    document = {
        **dumped(MADE[0][1]),
        "total": 1,
        "saes": [
            {
                "release": "a-long-release-name",
                "sae_id": "blocks.10.hook_resid_post/width_16k",
                "d_sae": 16384,
                "l0": 12.5,
                "cached": False,
            }
        ],
        "nearest": [],
    }
    narrow = seen("find_saes", document, width=50).splitlines()
    assert "release a-long-release-name" in narrow
    assert "  sae_id blocks.10.hook_resid_post/width_16k" in narrow
    assert any(
        line.split()[:1] == ["release"] and "l0" in line
        for line in seen("find_saes", document).splitlines()
    )


async def test_a_next_step_repeats_the_text_that_was_given(tiny: AppState, sae: str) -> None:
    texts = [PROMPT, "it's a cat"]
    document = await document_of(tiny, "top_features", sae=sae, texts=texts, k=1)
    file = io.StringIO()
    outcome = CommandOutcome(document, is_error=False)
    show(outcome, Terminal(file=file), VERBS["top_features"], {"texts": texts})
    assert "--texts 'it'\"'\"'s a cat'" in file.getvalue() and "..." not in file.getvalue()
