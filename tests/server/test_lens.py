"""encode_text through a lens, and what describe_feature says through it."""

import pytest
from tests.server.helpers import PROMPT, call, refuse

from saescope_mcp.state import AppState


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lens of few prompts: a fit of the tiny model takes a second."""
    monkeypatch.setattr("saescope.lens.plan.CPU_FLOPS", 0.0)


async def test_the_logit_lens_reads_the_last_position_layer_by_layer(
    tiny: AppState, sae: str
) -> None:
    reply = await call(tiny, "encode_text", sae=sae, text=PROMPT, lens="logit")
    (at,) = reply["readings"]
    layers = [row["layer"] for row in at["layers"]]
    assert layers == sorted(layers) and len(layers) == 4 and reply["total"] == 1
    assert at["layers"][-1]["logit"] == at["predicts"]
    assert at["next"] is None and "Verdict: " in reply["summary"]
    whole = await call(
        tiny, "encode_text", sae=sae, text=PROMPT, lens="logit", response_format="detailed"
    )
    assert f"Verdict: {whole['lens']['signal']}" in whole["summary"]
    settled = whole["readings"][0]["logit_from"]
    assert f"the logit lens from layer {settled} on" in reply["summary"]
    assert whole["lens"]["agreement"][0]["readers"] == ["logit", "model"]
    assert any(row["features"] for row in at["layers"])


async def test_a_jacobian_lens_is_fitted_once_and_then_read_and_described_through(
    tiny: AppState, sae: str, few: None
) -> None:
    asked = {"sae": sae, "text": PROMPT, "lens": "jacobian", "positions": [2, 3]}
    before = await call(tiny, "describe_feature", sae=sae, feature=0, through="jlens")
    assert "through_lens" not in before and "encode_text" in before["warnings"][-1]
    reply = await call(tiny, "encode_text", **asked, wait_s=55)
    assert "jacobian lens of 4 prompts of embedded (standard error" in reply["summary"]
    assert [at["pos"] for at in reply["readings"]] == [2, 3]
    assert all(row["jacobian"] for at in reply["readings"] for row in at["layers"])
    again = await call(tiny, "encode_text", **asked)
    assert again["readings"] == reply["readings"]
    whole = await call(tiny, "encode_text", **asked, response_format="detailed")
    from_first = whole["readings"][-1]["jacobian_from"] == whole["lens"]["facts"]["layers"][0] == 2
    assert ("Jacobian lens from layer 2 on (its first)" in whole["summary"]) is from_first
    card = await call(tiny, "describe_feature", sae=sae, feature=0, through="jlens")
    assert len(card["through_lens"]["promotes"]) == 8
    asked = {"sae": sae, "feature": 0, "through": "jlens", "response_format": "detailed"}
    whole = await call(tiny, "describe_feature", **asked)
    error = whole["through_lens"]["error"]
    assert (error > 0.2) == any("uncertain" in each for each in whole["warnings"])


async def test_a_reading_that_takes_longer_than_the_call_waits_is_a_job(
    tiny: AppState, sae: str
) -> None:
    asked = {"sae": sae, "text": PROMPT, "lens": "logit"}
    begun = await call(tiny, "encode_text", **asked, wait_s=0)
    assert begun["state"] == "running" and "readings" not in begun
    done = await call(
        tiny, "job_status", job_id=begun["job_id"], wait_s=55, response_format="detailed"
    )
    whole = await call(tiny, "encode_text", **asked, response_format="detailed")
    assert done["result"]["readings"] == whole["readings"]


async def test_readings_come_in_pages(tiny: AppState, sae: str) -> None:
    asked = {"sae": sae, "text": PROMPT, "lens": "logit", "positions": [2, 3]}
    whole = await call(tiny, "encode_text", **asked, response_format="detailed")
    first = await call(tiny, "encode_text", **asked, limit=1, response_format="detailed")
    rest = await call(tiny, "encode_text", **asked, offset=1, response_format="detailed")
    assert first["next_offset"] == 1 and len(first["readings"]) == 1
    assert [*first["readings"], *rest["readings"]] == whole["readings"]


async def test_what_is_no_lens_and_what_does_not_go_with_one_is_refused(
    tiny: AppState, sae: str
) -> None:
    asked = {"sae": sae, "text": PROMPT}
    error = await refuse(tiny, "encode_text", **asked, lens="logits")
    assert error["code"] == "LENS_NOT_FOUND" and "logit" in error["allowed"]
    error = await refuse(tiny, "encode_text", **asked, lens="logit", features=[1])
    assert error["code"] == "CONFLICTING_ARGUMENTS"
    error = await refuse(tiny, "describe_feature", sae=sae, features=[1, 2], through="jlens")
    assert error["code"] == "CONFLICTING_ARGUMENTS"
