"""Every tool that computes, on the tiny model: fields of the contract, evidence, what was left out,
and that it is what the core says."""

import json
import math
import re
from typing import Any

import anyio
import pytest
from mcp import Client
from tests.server.helpers import PROMPT, call, refuse

from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.state import AppState

COMMON = {"summary", "warnings", "next", "result_id", "evidence", "provenance"}


async def test_encode_text_lists_tokens_with_their_features(tiny: AppState, sae: str) -> None:
    reply = await call(tiny, "encode_text", sae=sae, text=PROMPT, top_k=2, limit=3)
    assert reply.keys() > COMMON and reply["evidence"] == "observed"
    assert [row["pos"] for row in reply["tokens"]] == [1, 2, 3]
    assert all(row["l0"] == 8 and len(row["features"]) == 2 for row in reply["tokens"])
    assert (reply["truncated"], reply["next_offset"], reply["total"]) == (
        True,
        3,
        reply["n_tokens"],
    )
    assert reply["n_left_out"] == 1 and "left out: position 0 ('The'; " in reply["summary"]


async def test_pages_of_tokens_join_up(tiny: AppState, sae: str) -> None:
    whole = await call(tiny, "encode_text", sae=sae, text=PROMPT, limit=100)
    pages = [
        await call(tiny, "encode_text", sae=sae, text=PROMPT, limit=3, offset=offset)
        for offset in range(0, whole["total"], 3)
    ]
    assert [row for page in pages for row in page["tokens"]] == whole["tokens"]


async def test_several_texts_number_their_tokens(tiny: AppState, sae: str) -> None:
    reply = await call(
        tiny, "encode_text", sae=sae, texts=[PROMPT, PROMPT], positions=[0, -1], limit=100
    )
    assert [(row["text_index"], row["pos"] == 0) for row in reply["tokens"]] == [
        (0, True),
        (0, False),
        (1, True),
        (1, False),
    ]


async def test_nothing_left_is_an_empty_list_with_a_warning(tiny: AppState, sae: str) -> None:
    tokens = await call(tiny, "encode_text", sae=sae, text="a", include_special=True)
    assert tokens["total"] == 1
    for tool, rows in (("encode_text", "tokens"), ("top_features", "features")):
        reply = await call(tiny, tool, sae=sae, text="a")
        assert (reply[rows], reply["n_tokens"], reply["n_left_out"]) == ([], 0, 1)
        assert "include_special=true" in reply["warnings"][0]


async def test_few_tokens_have_no_explained_variance(tiny: AppState, sae: str) -> None:
    few = await call(tiny, "encode_text", sae=sae, text="a b")
    assert few["n_tokens"] < 16 and few["explained_variance"] is None and few["cosine"]
    assert "explained variance takes 16 tokens or more" in few["summary"]
    many = await call(tiny, "encode_text", sae=sae, text="The cat sat on the mat. " * 5)
    assert many["n_tokens"] >= 16 and many["explained_variance"] is not None
    assert "explained variance" in many["summary"] and "too few" not in many["summary"]


async def test_top_features_agree_with_encode_text(tiny: AppState, sae: str) -> None:
    tokens = (await call(tiny, "encode_text", sae=sae, text=PROMPT, limit=100))["tokens"]
    top = (await call(tiny, "top_features", sae=sae, text=PROMPT))["features"][0]
    strongest = max(tokens, key=lambda row: row["features"][0]["activation"])
    assert top["feature"] == strongest["features"][0]["feature"]
    assert top["max_activation"] == top["score"] == strongest["features"][0]["activation"]
    assert top["top_token"] == {
        "text_index": 0,
        "pos": strongest["pos"],
        "token": strongest["token"],
    }
    assert {
        "mean_activation",
        "n_tokens",
        "share",
        "density",
        "promotes",
        "label",
        "url",
    } < top.keys() and top["label"] is None


async def test_contrast_needs_texts_to_contrast_with(tiny: AppState, sae: str) -> None:
    assert (await refuse(tiny, "top_features", sae=sae, text="a b", rank_by="contrast"))[
        "field"
    ] == "rank_by"
    reply = await call(
        tiny,
        "top_features",
        sae=sae,
        text=PROMPT,
        against=["A dog barked"],
        rank_by="contrast",
        k=2,
    )
    assert len(reply["features"]) == 2 and reply["next_offset"] == 2


@pytest.mark.parametrize(
    ("more", "evidence"),
    [
        ({"validate": False}, "correlational"),
        ({"n_controls": 0}, "intervened"),
        ({"n_controls": 2}, "controlled"),
    ],
)
async def test_an_attribution_claims_what_was_done(
    tiny: AppState, sae: str, more: dict[str, Any], evidence: str
) -> None:
    reply = await call(tiny, "attribute_logit", sae=sae, prompt=PROMPT, k=3, **more)
    assert reply["evidence"] == evidence
    assert ("contribute" in reply["summary"]) is (evidence != "correlational")
    assert reply["measure"] == "logprob" and "log-probability of" in reply["summary"]
    assert (
        reply["target"].keys() == {"token", "id", "logit", "prob", "rank"}
        and reply["target"]["rank"] == 1
    )
    row = reply["features"][0]
    assert {
        "feature",
        "pos",
        "token",
        "activation",
        "attribution",
        "measured_effect",
        "label",
    } <= row.keys()
    assert (row["measured_effect"] is None) is (evidence == "correlational")
    assert reply["agreement"].keys() == {"pearson", "n", "sample_spearman", "sample_n"}
    assert reply["completeness"] is None
    joint = reply["joint"] or {"control": {"n": None}}
    assert (
        joint["control"]["n"]
        == {
            "correlational": None,
            "intervened": 0,
            "controlled": 2,
        }[evidence]
    )


async def test_a_target_is_one_token_or_an_id(tiny: AppState, sae: str) -> None:
    top = (await call(tiny, "attribute_logit", sae=sae, prompt=PROMPT, validate=False))["target"]
    by_id = await call(
        tiny, "attribute_logit", sae=sae, prompt=PROMPT, validate=False, target=f"#{top['id']}"
    )
    assert by_id["target"] == top
    assert (
        await refuse(tiny, "attribute_logit", sae=sae, prompt=PROMPT, target="many tokens here")
    )["code"] == "NOT_ONE_TOKEN"


async def test_an_ablation_by_intervene_is_the_measured_effect(tiny: AppState, sae: str) -> None:
    row = (await call(tiny, "attribute_logit", sae=sae, prompt=PROMPT, k=1))["features"][0]
    edits = [{"feature": row["feature"], "mode": "ablate", "positions": [row["pos"]]}]
    reply = await call(tiny, "intervene", sae=sae, prompt=PROMPT, edits=edits)
    assert reply["effect"] == pytest.approx(-row["measured_effect"], rel=2e-3, abs=1e-4)
    assert reply["effect"] == reply["delta_logprob"] and reply["measure"] == "logprob"
    assert reply["evidence"] == "controlled" and reply["control"]["n"] == 19
    assert reply["before"]["target"]["logit"] + reply["delta_logit"] == pytest.approx(
        reply["after"]["target"]["logit"], rel=1e-3
    )
    assert len(reply["before"]["top"]) == 5


async def test_without_controls_an_intervention_is_not_controlled(tiny: AppState, sae: str) -> None:
    reply = await call(
        tiny, "intervene", sae=sae, prompt=PROMPT, edits=[{"feature": 3}], n_controls=0
    )
    assert (reply["evidence"], reply["control"]) == (
        "intervened",
        {"mean": None, "sd": None, "n": 0, "p": None, "outside": False},
    )


MANY = [PROMPT, "She went to the door and", "A king said to him:", "It was late, and", "The boy"]


async def test_an_intervention_on_several_prompts_is_one_on_each_and_their_mean(
    tiny: AppState, sae: str
) -> None:
    asked: dict[str, Any] = {"sae": sae, "unit": "raw", "edits": [{"feature": 5, "strength": 3}]}
    asked |= {"target": "#300"}
    reply = await call(tiny, "intervene", prompts=MANY, **asked)
    each = [await call(tiny, "intervene", prompt=prompt, **asked) for prompt in MANY]
    effects = [one["effect"] for one in each]
    assert [row["effect"] for row in reply["on_prompts"]] == pytest.approx(effects, abs=1e-3)
    for row, one in zip(reply["on_prompts"], each, strict=True):
        before, after = (one[when]["target"]["prob"] for when in ("before", "after"))
        assert row["logprob_before"] == pytest.approx(math.log(before), abs=1e-3)
        assert row["logprob_after"] == pytest.approx(math.log(after), abs=1e-3)
    mean = sum(effects) / len(effects)
    assert reply["effect"] == pytest.approx(mean, abs=1e-3) and reply["control"]["n"] == 19
    low, high = reply["interval"]
    assert low < mean < high and reply["n_touched"] == 5 and reply["evidence"] == "controlled"
    n_up = sum(effect > 0 for effect in effects)
    assert (reply["sign_test"]["n_up"], reply["sign_test"]["n_down"]) == (n_up, 5 - n_up)
    assert f"{n_up} go up, {5 - n_up} go down" in reply["summary"]
    assert reply["before"] is None and reply["delta_logit"] is None


@pytest.mark.parametrize(
    ("tool", "asked"),
    [
        ("steer_generate", {"prompt": "The sea", "features": [{"feature": 5}], "strengths": [1.0]}),
        ("steer_generate", {"prompt": "The sea", "features": [{"feature": 5}]}),
        ("intervene", {"prompts": ["The sea", "A king"], "edits": [{"feature": 5}]}),
        ("attribute_logit", {"prompt": "The sea"}),
        ("top_features", {"text": "The sea"}),
        ("encode_text", {"text": "The sea"}),
        ("encode_text", {"text": "The sea", "features": [5]}),
    ],
)
async def test_what_includes_position_0_is_an_argument_of_a_tool_that_has_it(
    tiny: AppState, sae: str, tool: str, asked: dict[str, Any]
) -> None:
    summary = (await call(tiny, tool, sae=sae, **asked))["summary"]
    advice = re.search(r"position 0 \('The'(?:, 'A')?; to include it: (.*?)\)\.", summary)
    assert advice, summary
    if advice[1] == "include_special=true":
        request = next(each for each in ALL_TOOLS if each.name == tool).request
        assert "include_special" in request.model_fields
    else:
        assert advice[1] == "intervene with positions=[0]"


async def test_a_generation_is_suggested_unless_random_features_do_as_much(
    tiny: AppState, sae: str
) -> None:
    seen = set[bool]()
    for n_controls in (0, 3, 19):
        for feature in (5, 6, 7, 8):
            edit = {"feature": feature, "strength": 1.0}
            asked: dict[str, Any] = {"prompt": PROMPT, "edits": [edit], "n_controls": n_controls}
            reply = await call(tiny, "intervene", sae=sae, **asked)
            assert reply["touched"]
            is_like_them = n_controls == 19 and not reply["control"]["outside"]
            assert bool(reply["next"]) != is_like_them
            seen.add(is_like_them)
    assert seen == {True, False}


async def test_one_edit_at_named_positions_does_not_leave_out_those_of_another(
    tiny: AppState, sae: str
) -> None:
    edits = [{"feature": 5, "positions": [2]}, {"feature": 6}]
    asked = {"sae": sae, "prompt": PROMPT, "n_controls": 0}
    mixed = await call(tiny, "intervene", **asked, edits=edits)
    assert "left out: position 0 (" in mixed["summary"]
    named = await call(tiny, "intervene", **asked, edits=edits[:1])
    assert "left out: all positions but those named" in named["summary"]


async def test_prompts_on_which_nothing_changes_are_said(tiny: AppState, sae: str) -> None:
    found = [await call(tiny, "top_features", sae=sae, text=text, k=100) for text in MANY]
    firing = [{row["feature"] for row in each["features"]} for each in found]
    feature = next(i for i in sorted(set.union(*firing)) if sum(i in each for each in firing) == 1)
    asked: dict[str, Any] = {"sae": sae, "prompts": MANY}
    one = await call(tiny, "intervene", edits=[{"feature": feature, "mode": "ablate"}], **asked)
    assert one["n_touched"] == 1 and one["interval"] is None
    assert "It touches nothing on 4 of the 5" in one["summary"]
    silent = next(i for i in range(256) if not any(i in each for each in firing))
    none = await call(tiny, "intervene", edits=[{"feature": silent, "mode": "ablate"}], **asked)
    assert none["evidence"] == "observed" and none["effect"] == 0 and none["n_touched"] == 0
    assert "nothing on any of the 5 prompts" in none["summary"] and "causes" not in none["summary"]


async def test_of_several_edits_each_stands_alone_and_left_out(tiny: AppState, sae: str) -> None:
    edits = [{"feature": feature, "strength": 3} for feature in (5, 6, 7)]
    asked: dict[str, Any] = {"sae": sae, "prompt": PROMPT, "unit": "raw", "target": "#300"}
    reply = await call(tiny, "intervene", edits=edits, **asked)
    for n, share in enumerate(reply["shares"]):
        alone = await call(tiny, "intervene", edits=[edits[n]], **asked)
        others = await call(tiny, "intervene", edits=edits[:n] + edits[n + 1 :], **asked)
        assert share["feature"] == edits[n]["feature"]
        assert share["alone"] == pytest.approx(alone["effect"], abs=1e-3)
        assert share["all_but_this"] == pytest.approx(others["effect"], abs=1e-3)
        assert alone["shares"] == []
    assert "Alone the 3 edits add up to" in reply["summary"]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "MISSING_ARGUMENT"),
        ({"prompt": "a", "prompts": ["b"]}, "CONFLICTING_ARGUMENTS"),
        ({"prompts": ["a"] * 65}, "TOO_MANY_ITEMS"),
    ],
)
async def test_an_intervention_takes_one_prompt_or_several(
    tiny: AppState, sae: str, given: dict[str, Any], code: str
) -> None:
    error = await refuse(tiny, "intervene", sae=sae, edits=[{"feature": 5}], **given)
    assert error["code"] == code


async def test_steering_stands_beside_baseline_and_controls(tiny: AppState, sae: str) -> None:
    reply = await call(
        tiny,
        "steer_generate",
        sae=sae,
        prompt=PROMPT,
        features=[{"feature": 5, "strength": 3}],
        max_new_tokens=5,
    )
    arms = [reply["baseline"], *reply["steered"], *reply["controls"]]
    assert len(arms) == 4 and reply["evidence"] == "controlled"
    assert all(
        arm["metrics"].keys()
        == {"concept_score", "concept_logprob", "perplexity", "repetition", "kl"}
        for arm in arms
    )
    assert reply["unit_values"] and len(reply["promoted_tokens"]) == 20
    assert reply["verdict"] in ("promotes its own tokens", "changed", "no visible effect")
    assert "concept_control" not in reply


async def test_strength_zero_changes_nothing(tiny: AppState, sae: str) -> None:
    features = [{"feature": 5, "strength": 0}]
    reply = await call(
        tiny,
        "steer_generate",
        sae=sae,
        prompt=PROMPT,
        features=features,
        max_new_tokens=5,
        n_controls=0,
    )
    assert (
        reply["steered"][0]["text"] == reply["baseline"]["text"]
        and reply["steered"][0]["metrics"]["kl"] == 0
    )


@pytest.mark.parametrize(
    ("strength", "effect", "proposed"),
    [(1e-6, "no visible effect", 2e-6), (500, "degenerate", 250.0)],
)
async def test_the_next_call_follows_from_what_steering_did(
    tiny: AppState, sae: str, strength: float, effect: str, proposed: float
) -> None:
    reply = await call(
        tiny,
        "steer_generate",
        sae=sae,
        prompt=PROMPT,
        features=[{"feature": 5, "strength": strength}],
        max_new_tokens=12,
        n_controls=0,
    )
    assert reply["verdict"] == effect and reply["summary"].lower().startswith(f"{effect}: ")
    assert f'"strength": {proposed}' in reply["next"][0]


async def test_features_outside_the_sae_are_refused(tiny: AppState, sae: str) -> None:
    error = await refuse(
        tiny, "steer_generate", sae=sae, prompt=PROMPT, features=[{"feature": 256}]
    )
    assert error["code"] == "FEATURE_OUT_OF_RANGE" and "255" in error["allowed"]


@pytest.mark.parametrize("limits", [{}, {"max_long_tokens": 4}, {"max_tokens_per_call": 4}])
async def test_a_text_beyond_the_context_or_a_limit_is_refused(
    tiny: AppState, sae: str, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        next(iter(tiny.models.values())), "settings", tiny.settings.model_copy(update=limits)
    )
    text = PROMPT if limits else "word " * 300
    assert (await refuse(tiny, "encode_text", sae=sae, text=text))["code"] == "PROMPT_TOO_LONG"


async def test_of_several_texts_the_one_that_is_too_long_is_named(tiny: AppState, sae: str) -> None:
    error = await refuse(tiny, "encode_text", sae=sae, texts=[PROMPT, "word " * 300])
    assert error["code"] == "PROMPT_TOO_LONG" and error["message"].startswith("Text 1 of the list")


async def test_an_empty_text_is_refused(tiny: AppState, sae: str) -> None:
    assert (await refuse(tiny, "encode_text", sae=sae, text=""))["code"] == "EMPTY_PROMPT"


async def test_the_text_of_a_result_is_its_structure(tiny: AppState, sae: str) -> None:
    async with Client(build_server(state=tiny)) as client:
        result = await client.call_tool("top_features", {"sae": sae, "text": PROMPT})
    assert result.content[0].type == "text"
    assert json.loads(result.content[0].text) == result.structured_content
    assert len(result.content[0].text.encode()) / 3 <= 1500


async def test_provenance_is_full_when_asked_for(tiny: AppState, sae: str) -> None:
    brief = await call(tiny, "top_features", sae=sae, text=PROMPT)
    full = await call(tiny, "top_features", sae=sae, text=PROMPT, response_format="detailed")
    assert (
        len(brief["provenance"]["weights_hash"]) == 12
        and len(full["provenance"]["weights_hash"]) == 64
    )
    assert "torch" in full["provenance"]["versions"] and brief["result_id"] == full["result_id"]


async def test_the_largest_reply_stays_within_the_budget(tiny: AppState, sae: str) -> None:
    reply = await call(tiny, "encode_text", sae=sae, texts=[PROMPT * 3] * 16, top_k=8, limit=100)
    assert len(json.dumps(reply, separators=(",", ":")).encode()) <= 18_000
    assert reply["next_offset"] == len(reply["tokens"]) < 100


async def test_calls_at_once_give_what_they_give_alone(tiny: AppState, sae: str) -> None:
    edits = [{"feature": 7, "strength": 2}]
    alone = [
        await call(tiny, "intervene", sae=sae, prompt=PROMPT, edits=edits),
        await call(tiny, "top_features", sae=sae, text=PROMPT),
    ]
    together: dict[int, dict[str, Any]] = {}

    async def one(i: int) -> None:
        if i % 2:
            together[i] = await call(tiny, "top_features", sae=sae, text=PROMPT)
        else:
            together[i] = await call(tiny, "intervene", sae=sae, prompt=PROMPT, edits=edits)

    async with anyio.create_task_group() as group:
        for i in range(8):
            group.start_soon(one, i)
    assert all(together[i] == alone[i % 2] for i in range(8))


async def test_after_a_cancelled_call_the_next_is_as_before(tiny: AppState, sae: str) -> None:
    before = await call(tiny, "top_features", sae=sae, text=PROMPT)
    with anyio.move_on_after(0.05) as scope:
        await call(
            tiny,
            "steer_generate",
            sae=sae,
            prompt=PROMPT,
            features=[{"feature": 5, "strength": 3}],
            max_new_tokens=100,
        )
    assert scope.cancelled_caught
    assert await call(tiny, "top_features", sae=sae, text=PROMPT) == before


async def test_status_lists_what_is_loaded_and_every_limit(tiny: AppState, sae: str) -> None:
    status = await call(tiny, "server_status")
    assert [row["handle"] for row in status["loaded"]] == ["glassllm-en", sae]
    assert status["limits"]["max_new_tokens"] == 256 and status["offline"] is True
    assert status["memory"]["used"] == sum(row["weights_bytes"] for row in status["loaded"])
    assert status["device"]


async def test_strengths_make_one_table_beside_one_baseline(tiny: AppState, sae: str) -> None:
    asked = {"sae": sae, "prompt": PROMPT, "max_new_tokens": 5, "concept_tokens": ["#300"]}
    reply = await call(
        tiny, "steer_generate", features=[{"feature": 5}], strengths=[1, 30], **asked
    )
    assert [row["strength"] for row in reply["table"]] == [1, 30]
    assert reply["steered"] == reply["controls"] == [] and reply["evidence"] == "controlled"
    for row in reply["table"]:
        features = [{"feature": 5, "strength": row["strength"]}]
        one = await call(tiny, "steer_generate", features=features, n_controls=0, **asked)
        assert row["text"] == one["steered"][0]["text"] and row["p"] == one["concept_control"]["p"]
        assert row["concept_logprob"] == pytest.approx(one["concept_logprob"], abs=1e-3)
        assert reply["baseline"]["text"] == one["baseline"]["text"]
    assert "coherent" in reply["summary"]


async def test_several_prompts_bring_an_interval(tiny: AppState, sae: str) -> None:
    reply = await call(
        tiny,
        "steer_generate",
        sae=sae,
        prompts=[PROMPT, f"{PROMPT} {PROMPT}"],
        features=[{"feature": 5, "strength": 3}],
        concept_tokens=["#300"],
        max_new_tokens=4,
    )
    (row,) = reply["table"]
    low, high = row["interval"]
    assert low <= row["concept_logprob"] <= high


@pytest.mark.parametrize("more", [{}, {"strengths": [1, 3]}])
async def test_a_long_generation_is_a_job_with_the_same_result(
    tiny: AppState, sae: str, more: dict[str, Any]
) -> None:
    asked = {"sae": sae, "prompt": PROMPT, "features": [{"feature": 5}], "max_new_tokens": 12}
    at_once = await call(tiny, "steer_generate", **asked, **more)
    assert at_once["state"] == "done" and at_once["job_id"] is None
    running = await call(tiny, "steer_generate", **asked, **more, wait_s=0)
    job_id = running["job_id"]
    assert running["state"] == "running" and running["baseline"] is None
    assert running["next"] == [f'job_status(job_id="{job_id}", wait_s=30)']
    assert (await call(tiny, "steer_generate", **asked, **more, wait_s=0))["job_id"] == job_id
    waiting = {"job_id": job_id, "wait_s": 30}
    brief = await call(tiny, "job_status", **waiting)
    assert brief["state"] == "done" and at_once["summary"].removesuffix(".") in brief["summary"]
    assert brief["message"] == "generating: 100%"
    whole = await call(tiny, "job_status", **waiting, response_format="detailed")
    assert whole["result"] == at_once


@pytest.mark.parametrize("more", [{}, {"strengths": [1, 3]}])
async def test_a_cancelled_generation_leaves_the_model_as_before(
    tiny: AppState, sae: str, more: dict[str, Any]
) -> None:
    asked = {"sae": sae, "prompt": PROMPT, "features": [{"feature": 5}], **more}
    before = await call(tiny, "top_features", sae=sae, text=PROMPT)
    running = await call(tiny, "steer_generate", **asked, max_new_tokens=200, wait_s=0)
    with anyio.fail_after(30):
        while (
            "generating"
            not in (await call(tiny, "job_status", job_id=running["job_id"]))["message"]
        ):
            await anyio.sleep(0.01)
    assert (await call(tiny, "cancel_job", job_id=running["job_id"]))["state"] == "cancelled"
    again = await call(tiny, "job_status", job_id=running["job_id"], response_format="detailed")
    assert again["state"] == "cancelled" and again["result"] is None
    assert await call(tiny, "top_features", sae=sae, text=PROMPT) == before


async def test_what_is_wrong_with_a_generation_is_refused_and_not_a_job(
    tiny: AppState, sae: str
) -> None:
    asked = {"sae": sae, "features": [{"feature": 5}], "wait_s": 0}
    assert (await refuse(tiny, "steer_generate", **{**asked, "sae": "zz"}, prompt="a"))[
        "code"
    ] == "SAE_NOT_LOADED"


async def test_without_features_the_text_is_the_plain_one(tiny: AppState, sae: str) -> None:
    asked = {"sae": sae, "prompt": PROMPT, "max_new_tokens": 5}
    plain = await call(tiny, "steer_generate", **asked)
    steered = await call(tiny, "steer_generate", features=[{"feature": 5}], **asked)
    assert plain["baseline"]["text"] == steered["baseline"]["text"]
    assert plain["evidence"] == "observed" and "table" not in plain


@pytest.mark.parametrize(
    ("given", "code"),
    [({}, "MISSING_ARGUMENT"), ({"prompt": "a", "prompts": ["b"]}, "CONFLICTING_ARGUMENTS")],
)
async def test_steering_takes_one_prompt_or_several(
    tiny: AppState, sae: str, given: dict[str, Any], code: str
) -> None:
    error = await refuse(tiny, "steer_generate", sae=sae, features=[{"feature": 5}], **given)
    assert error["code"] == code and "prompt" in error["allowed"]


async def test_a_subject_at_position_0_is_named_with_the_call_that_counts_it(
    tiny: AppState, sae: str
) -> None:
    reply = await call(tiny, "top_features", sae=sae, text="Mary went to the sea")
    first = await call(tiny, "encode_text", sae=sae, text="Mary went", include_special=True)
    word = first["tokens"][0]["token"]
    assert f"position 0 ({word!r};" in reply["summary"]
    assert "include_special=true" in reply["summary"]
    counted = await call(
        tiny, "top_features", sae=sae, text="Mary went to the sea", include_special=True
    )
    assert counted["n_tokens"] == reply["n_tokens"] + 1
    assert "position 0" not in counted["summary"]
    led = await call(tiny, "encode_text", sae=sae, text="\nMary went to the sea")
    assert word in [row["token"] for row in led["tokens"]]  # it stands at position 1 now
    edit = {"feature": 3, "mode": "ablate"}
    changed = await call(tiny, "intervene", sae=sae, prompt="Mary went", edits=[edit])
    assert "positions=[0]" in changed["summary"]
    prompts = [f"{word} went" for word in ("Mary", "Mary", "John", "Anna", "Peter", "Kate")]
    several = await call(tiny, "intervene", sae=sae, prompts=prompts, edits=[edit])
    firsts = [
        await call(tiny, "encode_text", sae=sae, text=p, include_special=True) for p in prompts
    ]
    names = list(dict.fromkeys(repr(each["tokens"][0]["token"]) for each in firsts))
    assert f"position 0 ({', '.join(names[:4])}" in several["summary"]
    assert ("and 1 others" in several["summary"]) is (len(names) == 5)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"features": [{"feature": 256}]}, "FEATURE_OUT_OF_RANGE"),
        (
            {"features": [{"feature": 1, "mode": "ablate"}], "strengths": [1, 2]},
            "CONFLICTING_ARGUMENTS",
        ),
        (
            {"features": [{"feature": 1}], "concept_tokens": [" no such single token"]},
            "NOT_ONE_TOKEN",
        ),
    ],
)
async def test_what_is_wrong_with_a_generation_is_said_before_it_is_a_job(
    tiny: AppState, sae: str, said: dict[str, Any], code: str
) -> None:
    before = len(tiny.jobs.all())
    error = await refuse(tiny, "steer_generate", sae=sae, prompt=PROMPT, wait_s=0, **said)
    assert error["code"] == code
    assert len(tiny.jobs.all()) == before
