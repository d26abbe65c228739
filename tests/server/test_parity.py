"""The library has a function for what each tool does, and it gives the same results for the same
seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.server.helpers import call

import saescope as ss
from saescope.models import Tokens
from saescope.records.features import Writer
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.state import AppState, LoadedSAE

PROMPT = "My sister went to the window and saw that"
TEXTS = ["My sister went to her house.", "Our mother saw her.", "She was a queen."]
AGAINST = ["My brother went to his house.", "Our father saw him.", "He was a king."]
FUNCTIONS = {
    "attribute_logit": "attribute",
    "claim": "judge_claim",
    "compare_prompts": "compare_prompts",
    "describe_feature": "feature_card",
    "encode_text": "encode_texts",
    "evaluate_sae": "evaluate",
    "export_report": "export_report",
    "find_features": "contrast_texts",
    "find_saes": "find_saes",
    "index_features": "index_features",
    "intervene": "intervene",
    "label_feature": "LabelStore",
    "load_sae": "load_sae",
    "publish_sae": "publish_sae",
    "quiz_feature": "make_quiz",
    "results": "Ledger",
    "steer_generate": "steer",
    "steer_search": "steer_search",
    "top_features": "rank_features",
    "trace_circuit": "trace_circuit",
    "train_sae": "train",
}
OF_THE_SERVER = {"cancel_job", "job_status", "server_status", "unload"}
"""What is about jobs and what a server holds in memory."""


@pytest.fixture
def entry(tiny: AppState, sae: str) -> LoadedSAE:
    return tiny.saes[sae]


def tokens(entry: LoadedSAE, texts: Sequence[str]) -> list[Tokens]:
    return [entry.model.tokenize(text, prepend_bos=False) for text in texts]


def near(value: float | None) -> Any:
    return pytest.approx(value, rel=1e-3, abs=1e-6)


def test_every_tool_has_a_function_in_the_library() -> None:
    assert {tool.name for tool in ALL_TOOLS} == set(FUNCTIONS) | OF_THE_SERVER
    assert set(FUNCTIONS.values()) <= set(ss.__all__)


async def test_an_attribution_is_the_library_s(tiny: AppState, sae: str, entry: LoadedSAE) -> None:
    reply = await call(
        tiny, "attribute_logit", sae=sae, prompt=PROMPT, target=" she", against=" he", k=4, seed=3
    )
    done = ss.attribute(
        entry.model,
        entry.sae,
        tokens(entry, [PROMPT])[0],
        target=" she",
        against=" he",
        k=4,
        seed=3,
    )
    assert [(row["feature"], row["pos"]) for row in reply["features"]] == [
        (row.feature, row.pos) for row in done.features
    ]
    for row, known in zip(reply["features"], done.features, strict=True):
        assert row["attribution"] == near(known.attribution)
        assert row["measured_effect"] == near(known.measured_effect)
    assert done.joint and done.joint.control.mean is not None
    assert reply["joint"]["control"]["mean"] == near(done.joint.control.mean)
    assert reply["error_share"] == near(done.error_share)


async def test_an_intervention_is_the_library_s(tiny: AppState, sae: str, entry: LoadedSAE) -> None:
    edits = [{"feature": 5, "strength": 4.0, "mode": "add"}]
    asked: dict[str, Any] = {"unit": "raw", "target": " she", "seed": 2}
    reply = await call(tiny, "intervene", sae=sae, prompt=PROMPT, edits=edits, **asked)
    known = ss.intervene(
        entry.model,
        entry.sae,
        tokens(entry, [PROMPT])[0],
        [ss.FeatureEdit(5, 4.0)],
        reference=ss.check_sae(entry.model, entry.sae).acts,
        **asked,
    )
    assert reply["effect"] == near(known.effect) and reply["kl"] == near(known.kl)
    assert reply["control"]["mean"] == near(known.control.mean)
    assert reply["control"]["p"] == near(known.control.p)


async def test_an_intervention_on_several_prompts_is_the_library_s(
    tiny: AppState, sae: str, entry: LoadedSAE
) -> None:
    prompts, edits = [PROMPT, "She went to the door"], [{"feature": 5}, {"feature": 6}]
    reply = await call(tiny, "intervene", sae=sae, prompts=prompts, edits=edits, seed=2)
    known = ss.intervene_all(
        entry.model,
        entry.sae,
        tokens(entry, prompts),
        [ss.FeatureEdit(5), ss.FeatureEdit(6)],
        reference=ss.check_sae(entry.model, entry.sae).acts,
        seed=2,
    )
    assert reply["effect"] == near(known.effect) and reply["control"]["p"] == known.control.p
    assert reply["unit_values"] == [near(value) for value in known.unit_values]
    for row, share in zip(reply["shares"], known.shares, strict=True):
        assert row["alone"] == near(share.alone)
        assert row["all_but_this"] == near(share.all_but_this)


async def test_steering_is_the_library_s(tiny: AppState, sae: str, entry: LoadedSAE) -> None:
    asked: dict[str, Any] = {"unit": "raw", "max_new_tokens": 6, "seed": 1, "n_controls": 1}
    features = [{"feature": 5, "strength": 8.0}]
    reply = await call(tiny, "steer_generate", sae=sae, prompt=PROMPT, features=features, **asked)
    (prompt,) = tokens(entry, [PROMPT])
    known = ss.steer(
        entry.model,
        entry.sae,
        prompt,
        [ss.FeatureEdit(5, 8.0)],
        reference=ss.check_sae(entry.model, entry.sae).acts,
        **asked,
    )
    assert reply["steered"][0]["text"] == known.steered[0].text
    assert reply["baseline"]["text"] == known.baseline.text
    assert reply["controls"][0]["text"] == known.controls[0].text
    assert reply["concept_logprob"] == near(known.concept_logprob)


@pytest.mark.parametrize("rank_by", ["max", "mean", "count", "contrast"])
async def test_a_ranking_is_the_library_s(
    tiny: AppState, sae: str, entry: LoadedSAE, rank_by: str
) -> None:
    against = AGAINST if rank_by == "contrast" else []
    reply = await call(
        tiny, "top_features", sae=sae, texts=TEXTS, against=against, rank_by=rank_by, k=5
    )
    known = ss.rank_features(
        entry.model,
        entry.sae,
        tokens(entry, TEXTS),
        against=tokens(entry, against),
        rank_by=rank_by,
        k=5,
    )
    assert [row["feature"] for row in reply["features"]] == [row.feature for row in known.features]
    assert [row["score"] for row in reply["features"]] == [
        near(row.score) for row in known.features
    ]


async def test_features_of_a_text_are_the_library_s(
    tiny: AppState, sae: str, entry: LoadedSAE
) -> None:
    reply = await call(tiny, "encode_text", sae=sae, texts=TEXTS, response_format="detailed")
    known = ss.encode_texts(entry.model, entry.sae, tokens(entry, TEXTS))
    assert (reply["l0_mean"], reply["n_tokens"]) == (near(known.l0_mean), known.n_tokens)
    assert reply["explained_variance"] == near(known.explained_variance)


@pytest.mark.parametrize("against", [[], AGAINST], ids=["texts", "contrast"])
async def test_found_features_are_the_library_s(
    tiny: AppState, sae: str, entry: LoadedSAE, against: list[str]
) -> None:
    reply = await call(tiny, "find_features", sae=sae, texts=TEXTS, against=against, k=4)
    texts = tokens(entry, TEXTS)
    if against:
        sides = ss.contrast_texts(
            entry.model, entry.sae, texts, against=tokens(entry, against), k=4
        )
        known = [(row.feature, row.held_out.auc) for row in sides.features]
    else:
        page = ss.find_by_texts(entry.model, entry.sae, texts, index=None, k=4)
        known = [(row.feature, row.score) for row in page.features]
    assert [(row["feature"], row["score"]) for row in reply["features"]] == [
        (feature, near(score)) for feature, score in known
    ]


@pytest.mark.slow
async def test_writers_of_a_token_are_the_library_s(
    tiny: AppState, sae: str, entry: LoadedSAE
) -> None:
    reply = await call(tiny, "find_features", sae=sae, tokens=[" she", " her"], k=4)
    known = ss.find_by_tokens(
        entry.model, entry.sae, [" she", " her"], reference=entry.check.acts, k=4
    )
    rows = [row for row in known.features if isinstance(row, Writer)]
    assert [(row["feature"], row["score"], row["push"]) for row in reply["features"]] == [
        (row.feature, near(row.score), near(row.push)) for row in rows
    ]
    assert [row["control"]["p"] for row in reply["features"]] == [
        near(row.control.p) for row in rows if row.control
    ]


async def test_an_evaluation_is_the_library_s(
    tiny: AppState, sae: str, entry: LoadedSAE, tmp_path: Path
) -> None:
    reply = await call(tiny, "evaluate_sae", sae=sae, n_tokens=300, seed=4, wait_s=50)
    known = ss.evaluate(entry.model, entry.sae, "embedded", n_tokens=300, seed=4)
    assert reply["explained_variance"] == near(known.explained_variance)
    assert reply["ce_score"] == near(known.ce_score)
    assert reply["n_tokens"] == known.n_tokens


async def test_a_published_sae_is_found_by_both(tiny: AppState) -> None:
    reply = await call(tiny, "find_saes", model="gemma-2-2b", layer=20, limit=5)
    known = ss.find_saes(model="gemma-2-2b", layer=20, limit=5)
    assert reply["total"] == known.total
    assert [row["sae_id"] for row in reply["saes"]] == [row.sae_id for row in known.saes]
