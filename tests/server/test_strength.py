"""steer_search and conditions through the tools: what the library says, in a reply that fits."""

import json
from typing import Any

import anyio
import pytest
from tests.server.helpers import PROMPT, call, refuse

import saescope as ss
from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.state import AppState

ASKED: dict[str, Any] = {
    "features": [{"feature": 5}, {"feature": 6, "strength": 0.5}],
    "concept": [" she", " her"],
    "prompts": ["The old man went", "She saw the"],
    "held_out": [PROMPT, "It was a", "A king said"],
    "max_new_tokens": 3,
    "seed": 2,
}
LONG = {"prompts": [], "held_out": [], "max_new_tokens": 100, "wait_s": 0}


async def test_a_search_is_the_library_s_and_its_reply_is_short(tiny: AppState, sae: str) -> None:
    tool = next(tool for tool in ALL_TOOLS if tool.name == "steer_search")
    outcome = await tool.call(tiny, {"sae": sae, **ASKED})
    reply, entry = outcome.document, tiny.saes[sae]
    assert len(json.dumps(outcome.sent, separators=(",", ":")).encode()) / 3 < 1200
    asked = {name: value for name, value in ASKED.items() if name != "features"}
    edits = [ss.FeatureEdit(5), ss.FeatureEdit(6, 0.5)]
    known = ss.steer_search(entry.model, entry.sae, edits, reference=[entry.check.acts], **asked)
    assert known.steered is not None and known.strength is not None
    assert reply["strength"] == pytest.approx(known.strength, rel=1e-3)
    for name in ("concept_logprob", "kl"):
        ours = getattr(known.steered, name)
        assert reply["steered"][name] == pytest.approx(ours, rel=1e-3, abs=1e-6)
    assert reply["verdict"] == known.verdict.level and reply["evidence"] == "controlled"
    assert reply["random"]["p"] == known.random.p
    assert [row["feature"] for row in reply["leave_one_out"]] == [5, 6]
    assert reply["n_trials"] == known.n_trials == len(known.trials)
    assert f"{known.n_trials} tried on 2 prompts" in reply["summary"]


@pytest.mark.slow
async def test_a_strength_that_will_do_leads_to_a_text_and_none_to_a_search(
    tiny: AppState, sae: str
) -> None:
    """What a feature promotes is its own concept; what it suppresses is nobody's."""
    card = await call(tiny, "describe_feature", sae=sae, feature=5)
    more = {"features": [{"feature": 5}], "concept": card["promotes"][:3]}
    reply = await call(tiny, "steer_search", sae=sae, **(ASKED | more))
    if reply["verdict"] in ("usable", "weak"):
        assert reply["next"][0].startswith("steer_generate(")
    back = await call(tiny, "steer_search", sae=sae, **(ASKED | more), sign="lower")
    assert back["verdict"] == "none" and back["next"][0].startswith("find_features(")
    said = json.dumps(more["concept"], ensure_ascii=False)
    assert f'causes={said}, sign="lower"' in back["next"][0]
    assert "other search" in back["warnings"][-1]


async def test_a_long_search_is_a_job_that_can_be_cancelled(tiny: AppState, sae: str) -> None:
    before = await call(tiny, "top_features", sae=sae, text=PROMPT)
    running = await call(tiny, "steer_search", sae=sae, **(ASKED | LONG))
    assert running["state"] == "running" and running["next"][0].startswith("job_status(")
    job = {"job_id": running["job_id"]}
    with anyio.fail_after(50):
        while "searching" not in (await call(tiny, "job_status", **job))["message"]:
            await anyio.sleep(0.05)
    assert (await call(tiny, "cancel_job", **job))["state"] == "cancelled"
    assert await call(tiny, "top_features", sae=sae, text=PROMPT) == before


@pytest.mark.parametrize(
    ("wrong", "code", "field"),
    [
        ({"concept": []}, "TOO_FEW_ITEMS", "concept"),
        ({"features": [{"feature": 5, "mode": "ablate"}]}, "INVALID_CHOICE", "features[0].mode"),
        ({"texts": ["a b"]}, "MISSING_ARGUMENT", "against"),
        ({"features": [{"feature": 256}]}, "FEATURE_OUT_OF_RANGE", "feature"),
        ({"held_out": ["The old man went"]}, "TOO_FEW_PROMPTS", "held_out"),
    ],
)
async def test_what_cannot_be_searched_is_refused(
    tiny: AppState, sae: str, wrong: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(tiny, "steer_search", sae=sae, **(ASKED | wrong))
    assert (error["code"], error["field"]) == (code, field)


async def test_a_row_with_a_condition_acts_only_where_it_holds(tiny: AppState, sae: str) -> None:
    asked: dict[str, Any] = {"sae": sae, "prompt": PROMPT, "max_new_tokens": 6, "unit": "raw"}
    row = {"feature": 5, "strength": 40.0, "when_feature": 6}
    never = await call(tiny, "steer_generate", features=[{**row, "when_above": 1e6}], **asked)
    assert never["steered"][0]["text"] == never["baseline"]["text"]
    assert never["evidence"] == "observed"
    assert "changed nowhere in the prompt" in " ".join(never["warnings"])
    entry = tiny.saes[sae]
    some = await call(tiny, "steer_generate", features=[row], **asked)
    known = ss.steer(
        entry.model,
        entry.sae,
        entry.model.tokenize(PROMPT, prepend_bos=False),
        [ss.FeatureEdit(5, 40.0, when_feature=6)],
        reference=entry.check.acts,
        unit="raw",
        max_new_tokens=6,
    )
    assert some["steered"][0]["text"] == known.steered[0].text
    error = await refuse(
        tiny, "steer_generate", features=[{"feature": 5, "when_above": 1}], **asked
    )
    assert (error["code"], error["field"]) == ("MISSING_ARGUMENT", "features[0]")
