"""find_features with causes, through the protocol: the same numbers as the library's, short, and a
job where it takes long."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.core.search.test_selection import parts, sides
from tests.server.helpers import call, empties, refuse

import saescope as ss
from saescope_mcp.app import build_server
from saescope_mcp.binding.document import compact
from saescope_mcp.state import AppState

PROMPTS = ["They said that", "Here is the", "It was a", "And then we", "She took the"]
ASKED: dict[str, Any] = {"causes": [" door", " hand"], "prompts": PROMPTS, "wait_s": 50}


def near(value: float | list[float]) -> Any:
    return pytest.approx(value, rel=1e-3, abs=1e-6)


async def test_a_causal_search_is_the_library_s_and_its_reply_is_short(
    tiny: AppState, sae: str
) -> None:
    entry = tiny.saes[sae]
    async with Client(build_server(state=tiny)) as client:
        left_out = await empties(client)
        result = await client.call_tool("find_features", {"sae": sae, **ASKED})
        assert not result.is_error and result.structured_content is not None, result.content
    assert len(compact(result.structured_content).encode()) / 3 < 1500
    reply = left_out["find_features"] | result.structured_content
    prompts = [entry.model.tokenize(text, prepend_bos=False) for text in PROMPTS]
    known = ss.find_causes(
        entry.model, entry.sae, ASKED["causes"], prompts=prompts, reference=entry.check.acts
    )
    assert reply["total"] == known.total and reply["evidence"] == "controlled"
    assert [row["feature"] for row in reply["features"]] == [row.feature for row in known.features]
    for row, expected in zip(reply["features"], known.features, strict=True):
        assert row["score"] == near(expected.score) and row["screen"] == near(expected.screen)
        assert row["effects"] == near(expected.effects) and len(row["kl"]) == 3
        assert row["causes"] is expected.causes and row["p"] == near(expected.p or 0)
    assert "over 5 prompts" in reply["summary"] and reply["search"]["n_measured"] == 20
    assert "log-probability of ' door' or ' hand' after the prompt" in reply["summary"]


async def test_a_pair_a_sign_and_repetition_are_asked_for(tiny: AppState, sae: str) -> None:
    pair = await call(
        tiny, "find_features", sae=sae, **ASKED | {"against": [" and then"]}, sign="lower", k=2
    )
    assert "less that of ' and then'" in pair["search"]["concept"]
    assert all(row["score"] < 0 for row in pair["features"] if row["causes"] is not None)
    again = await call(
        tiny, "find_features", sae=sae, metric="repetition", prompts=["It was late."], wait_s=50
    )
    assert "said a second time" in again["summary"] and "1 prompt only" in again["warnings"][0]


async def test_a_long_search_is_a_job_whose_result_is_kept(tiny: AppState, sae: str) -> None:
    begun = await call(tiny, "find_features", sae=sae, **ASKED | {"wait_s": 0}, k=3)
    assert begun["state"] == "running" and begun["features"] == []
    done = await call(
        tiny, "job_status", job_id=begun["job_id"], wait_s=50, response_format="detailed"
    )
    assert done["state"] == "done" and len(done["result"]["features"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({"causes": [" a"], "tokens": [" b"]}, "CONFLICTING_ARGUMENTS", "query"),
        ({"causes": [" a"], "metric": "repetition"}, "CONFLICTING_ARGUMENTS", "query"),
        ({"tokens": [" a"], "prompts": ["b"]}, "MISSING_ARGUMENT", "causes"),
        ({"tokens": [" a"], "sign": "lower"}, "MISSING_ARGUMENT", "causes"),
        ({"causes": ["#99999"]}, "TOKEN_OUT_OF_RANGE", "causes"),
        ({"causes": [" door"], "against": [" door"]}, "CONFLICTING_ARGUMENTS", "causes"),
    ],
)
async def test_what_does_not_go_together_is_refused(
    tiny: AppState, sae: str, arguments: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(tiny, "find_features", sae=sae, **arguments)
    assert (error["code"], error["field"]) == (code, field)


async def test_texts_and_causes_together_choose_and_say_what_is_wrong_with_the_texts(
    tiny: AppState, sae: str
) -> None:
    texts = [f"My sister lost her {word} in May." for word in ("keys", "hat", "book", "dog")]
    against = [f"My brother lost his {word}." for word in ("keys", "hat", "book", "dog")]
    asked = {**ASKED, "texts": texts, "against": against}
    reply = await call(tiny, "find_features", sae=sae, **asked)
    assert reply["choice"]["verdict"] == "none is good enough"
    assert reply["summary"].startswith("None is good enough: no feature both fires")
    assert any("Too few texts (4 and 4)" in warning for warning in reply["warnings"])
    assert reply["features"] and all(row["lost"] for row in reply["features"][1:])
    assert reply["evidence"] == "controlled" and len(compact(reply).encode()) / 3 < 1900
    alone = await refuse(tiny, "find_features", sae=sae, causes=[" a"], texts=texts)
    assert (alone["code"], alone["field"]) == ("MISSING_ARGUMENT", "against")


@pytest.mark.slow
async def test_the_next_call_of_a_group_steers_with_all_of_it(
    tiny: AppState, sae: str, sae_dir: Path, glass_dir: Path
) -> None:
    words, model = [" Queen", " door", " child"], tiny.saes[sae].model
    path = parts(model, words).save(sae_dir.parent / "parts")
    loaded = await call(tiny, "load_sae", path=str(path), model=str(glass_dir), allow_mismatch=True)
    texts, against = (
        ["".join(tokens.strings[tokens.bos_prepended :]) for tokens in side]
        for side in sides(model, words)
    )
    found = await call(
        tiny,
        "find_features",
        sae=loaded["sae"],
        texts=texts,
        against=against,
        causes=words,
        prompts=PROMPTS,
        wait_s=50,
    )
    group = found["choice"]["group"]
    assert found["choice"]["verdict"] == "a group", found["summary"]
    (step,) = found["next"]
    rows = zip(group["features"], group["strengths"], strict=True)
    for feature, strength in rows:
        assert f'{{"feature": {feature}, "strength": {float(f"{strength:.2g}")}}}' in step
    assert '" Queen", " door", " child"' in step and "strengths" not in step
