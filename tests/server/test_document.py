import ast
import json
from typing import Any, ClassVar

import jsonschema
import pytest
from tests.server.helpers import PROMPT, call

from saescope.errors import NumericError
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Outcome, next_call
from saescope_mcp.binding.document import compact, document, in_short, tidy
from saescope_mcp.binding.published import output_schema
from saescope_mcp.schemas.common import SHORT_DIGITS, ListReply, Provenance, Reply, Request
from saescope_mcp.schemas.features import FindFeatures
from saescope_mcp.state import AppState

PROVENANCE = Provenance(
    model="m",
    revision="",
    sae="m/1.x",
    weights_hash="ab" * 32,
    dtype="float32",
    device="cpu",
    seed=0,
    versions={"saescope": "1", "torch": "2"},
)


class Numbers(ListReply, frozen=True):
    listed: ClassVar[str] = "numbers"
    numbers: list[str]


class Count(Request):
    offset: int = 0


def test_floats_keep_four_significant_digits() -> None:
    assert tidy({"a": [1.23456, 123456.0, 1e-9 / 3], "b": 7}) == {
        "a": [1.235, 123500.0, 3.333e-10],
        "b": 7,
    }


def test_half_a_surrogate_pair_does_not_leave() -> None:
    assert tidy("a\ud800b") == "a?b"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_result_that_is_not_finite_is_an_error_that_names_it(bad: float) -> None:
    with pytest.raises(NumericError, match="kl"):
        tidy({"kl": bad})


def test_concise_and_detailed_are_one_result() -> None:
    reply = Reply(summary="", provenance=PROVENANCE)
    brief, full = (
        document("t", Request(response_format=form), reply, max_tokens=6000)
        for form in ("concise", "detailed")
    )
    assert brief["result_id"] == full["result_id"] and len(brief["result_id"]) == 12
    assert (
        brief["provenance"]["weights_hash"] == "abababababab"
        and full["provenance"]["versions"]["torch"] == "2"
    )


def test_other_arguments_are_another_result() -> None:
    reply = Reply(summary="", provenance=PROVENANCE)
    assert (
        document("t", Count(), reply, max_tokens=6000)["result_id"]
        != document("t", Count(offset=1), reply, max_tokens=6000)["result_id"]
    )


def test_a_reply_over_the_budget_loses_its_last_items_and_says_where_to_go_on() -> None:
    reply = Numbers(summary="", total=1000, numbers=["x" * 50] * 1000)
    cut = document("t", Count(offset=20), reply, max_tokens=1000)
    kept = len(cut["numbers"])
    assert len(compact(cut).encode()) <= 3000
    assert 40 < kept < 60
    assert (cut["truncated"], cut["next_offset"], cut["total"]) == (True, 20 + kept, 1000)
    assert f"offset={20 + kept}" in cut["warnings"][0]


def test_a_cut_contrast_names_no_offset_that_would_be_refused() -> None:
    asked = FindFeatures(sae="a/1.x", texts=["a"], against=["b"])
    reply = Numbers(summary="", total=1000, numbers=["x" * 50] * 1000)
    cut = document("find_features", asked, reply, max_tokens=1000)
    assert cut["truncated"] and cut["next_offset"] is None
    assert "offset" not in cut["warnings"][0] and "fewer" in cut["warnings"][0]


def test_a_reply_within_the_budget_is_left_alone() -> None:
    said: dict[str, Any] = document(
        "t", Count(), Numbers(summary="", total=1, numbers=["a"]), max_tokens=1000
    )
    assert (said["truncated"], said["next_offset"], said["warnings"]) == (False, None, [])


def test_a_suggested_call_reads_as_one_would_write_it() -> None:
    assert next_call("top_features", sae="a/1.x", k=3) == 'top_features(sae="a/1.x", k=3)'


def test_text_is_the_same_document_without_blanks() -> None:
    assert json.loads(compact({"a": ["é"]})) == {"a": ["é"]} and compact({"a": 1}) == '{"a":1}'


class Rows(Reply, frozen=True):
    """What a concise reply of this kind goes without, of every sort."""

    spare: ClassVar[frozenset[str]] = frozenset({"rows.spare"})
    usual: ClassVar[dict[str, object]] = Reply.usual | {"rows.kind": "plain"}
    twins: ClassVar[dict[str, str]] = {"rows.score": "x"}
    first: ClassVar[dict[str, int]] = {"rows.top": 2}


def test_a_concise_document_is_sent_without_what_is_empty_and_a_detailed_one_whole() -> None:
    whole = {
        "summary": "s",
        "next": [],
        "truncated": False,
        "n": 0,
        "n_sinks": 0,
        "label": None,
        "provenance": {"model": "m", "weights_hash": "0123456789ab", "seed": 0, "device": "cpu"},
        "rows": [
            {"x": 1.5, "url": None, "spare": 2, "text": "", "score": 1.5, "kind": "plain"},
            {"x": 0.0, "score": 0.0, "kind": "plain", "top": [1, 2, 3]},
        ],
    }
    short = in_short(whole, Rows)
    assert short == {
        "summary": "s",
        "n": 0,
        "provenance": "01234567 seed=0",
        "rows": [{"x": 1.5, "text": ""}, {"x": 0.0, "top": [1, 2]}],
    }
    assert Outcome(whole, is_error=False, concise=Rows).sent == short
    assert Outcome(whole, is_error=False).sent is whole


@pytest.mark.parametrize(
    ("whole", "sent"),
    [
        ({"weights_hash": "0123456789ab", "seed": None}, "01234567"),
        (
            {
                "weights_hash": None,
                "saes": [{"weights_hash": "a" * 12}, {"weights_hash": "b" * 12}],
                "seed": 7,
            },
            "aaaaaaaa bbbbbbbb seed=7",
        ),
        ({"weights_hash": None, "seed": None}, None),
        (None, None),
    ],
)
def test_a_concise_provenance_says_which_weights_and_which_seed(
    whole: dict[str, Any] | None, sent: str | None
) -> None:
    assert in_short({"provenance": whole}, Reply).get("provenance") == sent


def test_a_field_that_one_row_needs_stays_in_every_row() -> None:
    rows = [
        {"x": 1.5, "score": 1.5, "kind": "plain"},
        {"x": 2.0, "score": 0.5, "kind": "odd"},
        {"x": 0.0, "score": None, "kind": "plain"},
    ]
    short = in_short({"summary": "s", "rows": rows}, Rows)
    assert short["rows"] == [*rows[:2], {"x": 0.0, "kind": "plain"}]
    assert in_short({"summary": "s", "rows": rows[:1]}, Rows)["rows"] == [{"x": 1.5}]


def test_a_concise_document_says_once_where_the_list_goes_on() -> None:
    steps = ["describe_feature(feature=7)", "top_features(k=5, offset=5)"]
    whole = {"summary": "s", "next": steps, "truncated": True, "next_offset": 5}
    assert in_short(whole, Numbers) == whole | {"next": steps[:1]}
    alone = whole | {"next": steps[1:]}
    assert in_short(alone, Numbers) == alone


async def test_what_is_sent_keeps_to_the_published_schema(tiny: AppState, sae: str) -> None:
    for tool, said in CALLS.items():
        bound = next(each for each in ALL_TOOLS if each.name == tool)
        schema = output_schema(bound.reply, tiny.settings)
        short = ""
        for kind in ("concise", "detailed"):
            outcome = await bound.call(tiny, {"sae": sae, **said, "response_format": kind})
            assert not outcome.is_error, outcome.text
            jsonschema.validate(outcome.sent, schema)
            told = outcome.sent["provenance"]
            if kind == "detailed":
                assert told["versions"]["torch"] and told["weights_hash"].startswith(short)
            else:
                short = told.split()[0]
                assert len(short) == SHORT_DIGITS and outcome.sent["result_id"]


CALLS: dict[str, dict[str, Any]] = {
    "top_features": {"text": PROMPT},
    "encode_text": {"text": PROMPT},
    "attribute_logit": {"prompt": PROMPT},
    "trace_circuit": {"prompt": PROMPT, "max_features": 20, "n_measured": 4},
    "compare_prompts": {"a": "The old man saw the sea", "b": "The little man saw the sea"},
    "intervene": {"prompt": PROMPT, "edits": [{"feature": 3, "mode": "ablate"}]},
    "steer_generate": {"prompt": PROMPT, "features": [{"feature": 3}], "max_new_tokens": 4},
    "describe_feature": {"feature": 3},
}


async def test_a_next_call_names_a_token_by_its_text_and_repeats_no_long_one(
    tiny: AppState, sae: str
) -> None:
    reply = await call(tiny, "attribute_logit", sae=sae, prompt=PROMPT, k=1)
    said = json.dumps(reply["target"]["token"], ensure_ascii=False)
    assert f"target={said}" in reply["next"][0] and "#" not in reply["next"][0]
    longest = PROMPT * 8
    reply = await call(tiny, "attribute_logit", sae=sae, prompt=longest, k=1)
    assert longest not in reply["next"][0] and 'prompt="..."' in reply["next"][0]
    texts = [f"{PROMPT} {i}" for i in range(8)]
    reply = await call(tiny, "top_features", sae=sae, texts=texts, k=1)
    assert 'texts=["..."]' in reply["next"][-1]


async def test_a_next_call_names_a_line_break_by_its_number(tiny: AppState, sae: str) -> None:
    """No argument may hold one, and tiny models predict it often."""
    on = {"sae": sae, "a": "The old man saw the sea", "b": "The old man saw the King"}
    newline = tiny.saes[sae].model.tokenizer.single("\n", 1024, "target")
    asked = on | {"target": f"#{newline}", "against": " the"}
    reply = await call(tiny, "compare_prompts", **asked, k=1)
    assert reply["target"]["token"] == "\n"
    step = ast.parse(reply["next"][-1], mode="eval").body
    assert isinstance(step, ast.Call)
    arguments = {str(each.arg): ast.literal_eval(each.value) for each in step.keywords}
    assert arguments["target"] == f"#{newline}" and arguments["against"] == " the"
    assert await call(tiny, "intervene", **arguments)
