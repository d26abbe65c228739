"""compare_prompts, and find_features with match, through the tools."""

import ast
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.server.helpers import call, refuse, save_random_sae
from tests.server.test_renderers import check_shown, document_of, seen

import saescope as ss
from saescope_mcp.app import build_server
from saescope_mcp.state import AppState

A, B = "The old man saw the little house by the sea", "The little man saw the old house by the sea"
MOST_BYTES = 4500
"""Of a concise reply: 1,500 tokens."""


@pytest.fixture
async def other(tiny: AppState, glass_dir: Path, sae_dir: Path) -> Any:
    """A second SAE, a layer below."""
    path = sae_dir.parent / "another"
    if not path.exists():
        save_random_sae(path, hook_name="blocks.1.hook_resid_post", seed=1)
    loaded = await call(tiny, "load_sae", path=str(path), model=str(glass_dir))
    yield loaded["sae"]
    await call(tiny, "unload", handle=loaded["sae"])


async def test_two_prompts_are_compared_as_in_the_library(tiny: AppState, sae: str) -> None:
    reply = await call(tiny, "compare_prompts", sae=sae, a=A, b=B, k=4, seed=3)
    entry = tiny.saes[sae]
    a, b = (entry.model.tokenize(text, prepend_bos=False) for text in (A, B))
    known = ss.compare_prompts(entry.model, entry.sae, a, b, k=4, seed=3)
    for row, expected in zip(reply["features"], known.features, strict=True):
        assert (row["feature"], row["pos_a"]) == (expected.feature, expected.pos_a)
        assert row["closed"] == pytest.approx(expected.closed, rel=1e-3, abs=1e-6)
    assert reply["whole"]["kl"] == pytest.approx(known.whole.kl, rel=1e-3)
    assert reply["verdict"]["level"] == known.verdict.level and reply["total"] == known.total
    assert reply["evidence"] == "controlled" and reply["unchanged"]
    assert f"What carries it: {known.verdict.level} (" in reply["summary"]
    assert reply["differences"][0]["text_a"] == " old" and "by_sae" not in reply


async def test_the_next_call_ablates_the_feature_where_it_fires(tiny: AppState, sae: str) -> None:
    """One that is silent in b closes a share by that: in b there is nothing to ablate."""
    for a, b in ((A, B), (B, A)):
        reply = await call(tiny, "compare_prompts", sae=sae, a=a, b=b, k=1, n_controls=0)
        (row,) = reply["features"]
        step = ast.parse(reply["next"][-1], mode="eval").body
        assert isinstance(step, ast.Call)
        arguments = {str(each.arg): ast.literal_eval(each.value) for each in step.keywords}
        assert arguments["prompt"] == (b if row["activation_b"] >= row["activation_a"] else a)
        done = await call(tiny, "intervene", **arguments, n_controls=0)
        assert done["evidence"] == "intervened" and done["effect"] != 0


async def test_a_concise_comparison_fits_1500_tokens(tiny: AppState, sae: str) -> None:
    async with Client(build_server(state=tiny)) as client:
        done = await client.call_tool("compare_prompts", {"sae": sae, "a": A, "b": B})
    assert done.content[0].type == "text" and len(done.content[0].text.encode()) <= MOST_BYTES


async def test_several_saes_are_patched_together_and_each_alone(
    tiny: AppState, sae: str, other: str
) -> None:
    reply = await call(tiny, "compare_prompts", saes=[sae, other], a=A, b=B, n_controls=1)
    assert [each["sae"] for each in reply["by_sae"]] == [sae, other]
    assert {row["sae"] for row in reply["features"]} <= {sae, other}
    assert reply["whole"]["difference"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"b": A}, "SAME_PROMPTS", "b"),
        ({"b": ""}, "EMPTY_PROMPT", "b"),
        ({"a": A * 400}, "PROMPT_TOO_LONG", "a"),
        ({"target": "many tokens"}, "NOT_ONE_TOKEN", "target"),
        ({"target": "#9", "against": "#9"}, "INVALID_ARGUMENT", "against"),
    ],
)
async def test_a_comparison_that_cannot_be_is_refused_by_the_argument(
    tiny: AppState, sae: str, changed: dict[str, str], code: str, field: str
) -> None:
    error = await refuse(tiny, "compare_prompts", **{"sae": sae, "a": A, "b": B, **changed})
    assert (error["code"], error["field"]) == (code, field), error


async def test_features_are_matched_as_in_the_library(tiny: AppState, sae: str, other: str) -> None:
    texts = [A, B, "The king said no.", "She went to the window and saw the moon."]
    reply = await call(tiny, "find_features", sae=sae, match=other, texts=texts, k=3)
    one, two = tiny.saes[sae], tiny.saes[other]
    tokens = [one.model.tokenize(text, prepend_bos=False) for text in texts]
    known = ss.match_features(one.model, one.sae, two.sae, tokens, k=3)
    assert reply["match"]["n_matched"] == known.n_matched == reply["total"]
    for row, expected in zip(reply["features"], known.features, strict=True):
        assert (row["feature"], row["partner"]) == (expected.feature, expected.partner)
        assert row["score"] == pytest.approx(expected.score, rel=1e-3)
    assert reply["evidence"] == "correlational" and other in reply["summary"]


async def test_features_that_are_named_are_matched_and_told_one_by_one(
    tiny: AppState, sae: str, other: str
) -> None:
    named = {"sae": sae, "match": other, "texts": [A, B], "features": [3, 5]}
    reply = await call(tiny, "find_features", **named)
    assert [row["feature"] for row in reply["features"]] == [3, 5] and reply["total"] == 2
    assert "feature 3" in reply["summary"] and "feature 5" in reply["summary"]


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        ({"tokens": [" a"]}, "CONFLICTING_ARGUMENTS", "tokens"),
        ({"texts": ["a"], "against": ["b"]}, "CONFLICTING_ARGUMENTS", "against"),
        ({"features": [10**6]}, "FEATURE_OUT_OF_RANGE", "features"),
        ({"features": [1], "offset": 2}, "CONFLICTING_ARGUMENTS", "offset"),
        ({"match": ""}, "MISSING_ARGUMENT", "query"),
        ({"match": "", "tokens": [" a"], "features": [1]}, "MISSING_ARGUMENT", "match"),
    ],
)
async def test_a_match_that_cannot_be_is_refused_by_the_argument(
    tiny: AppState, sae: str, other: str, asked: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(tiny, "find_features", **{"sae": sae, "match": other, **asked})
    assert (error["code"], error["field"]) == (code, field), error


async def test_an_sae_is_not_matched_with_itself(tiny: AppState, sae: str) -> None:
    error = await refuse(tiny, "find_features", sae=sae, match=sae)
    assert (error["code"], error["field"]) == ("DUPLICATE_SAE", "match")


async def test_partners_fit_the_terminal(tiny: AppState, sae: str, other: str) -> None:
    asked = {"sae": sae, "match": other, "texts": [A, B], "k": 3, "features": [3, 5]}
    document = await document_of(tiny, "find_features", **asked)
    check_shown("find_features", document)
    assert "partner" in seen("find_features", document)
