"""Long texts at the door: three tools read them in chunks, the others say which do."""

from pathlib import Path
from typing import Any

import pytest
from tests.attack.families import build
from tests.server.helpers import call, refuse
from transformers import AutoTokenizer

from saescope.errors import ArgumentError
from saescope.models import LanguageModel, load_model
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState
from saescope_mcp.state.entries import Long, tokenize_all
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.threads import Workers

TEXT = "The old man saw the little house by the sea. " * 6
FEATURES = [{"feature": 7, "strength": 4.0}]


@pytest.fixture
def short(tiny: AppState, monkeypatch: pytest.MonkeyPatch) -> AppState:
    """A state whose model takes 16 tokens in one pass, and the server no more in one."""
    slot = next(iter(tiny.models.values()))
    monkeypatch.setattr(slot.model, "pass_tokens", 16)
    monkeypatch.setattr(slot, "settings", tiny.settings.model_copy(update={"max_tokens": 16}))
    return tiny


async def test_a_long_text_is_read_as_in_one_pass_and_the_reply_stays_short(
    short: AppState, sae: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [
        await call(short, tool, sae=sae, text=TEXT) for tool in ("encode_text", "top_features")
    ]
    monkeypatch.setattr(next(iter(short.models.values())).model, "pass_tokens", 1024)
    whole = [
        await call(short, tool, sae=sae, text=TEXT) for tool in ("encode_text", "top_features")
    ]
    assert parts[0]["total"] > 60 and len(parts[0]["tokens"]) == 12
    assert any(step.startswith("top_features") for step in parts[0]["next"])
    assert any("offset=12" in step for step in parts[0]["next"])
    for one, other in zip(parts, whole, strict=True):
        _equal(one, other)


async def test_named_features_and_steering_read_a_long_text_too(short: AppState, sae: str) -> None:
    found = await call(short, "encode_text", sae=sae, text=TEXT, features=[7])
    assert found["n_tokens"] > 60
    done = await call(
        short, "steer_generate", sae=sae, prompt=TEXT, features=FEATURES, max_new_tokens=3
    )
    assert done["baseline"]["n_tokens"] == 3


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("attribute_logit", {"prompt": TEXT}),
        ("intervene", {"prompt": TEXT, "edits": FEATURES}),
        ("encode_text", {"text": TEXT, "lens": "logit"}),
    ],
)
async def test_what_reads_in_one_pass_keeps_its_limit_and_says_what_does_not(
    short: AppState, sae: str, tool: str, arguments: dict[str, Any]
) -> None:
    error = await refuse(short, tool, sae=sae, **arguments)
    assert error["code"] == "PROMPT_TOO_LONG" and error["allowed"] == "16"
    assert "encode_text, top_features and steer_generate read up to 4096" in error["hint"]


def test_a_model_whose_cache_cannot_do_it_is_refused_with_the_reason(
    tmp_path: Path, glass_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(glass_dir)
    model = load_model(build("jamba", tmp_path / "jamba", tokenizer), device="cpu")
    slot = slot_of(model)
    with pytest.raises(ArgumentError) as error:
        tokenize_all(slot, [TEXT], prepend_bos=True, chat=False, most=8192, long=Long())
    assert error.value.code == "PROMPT_TOO_LONG" and error.value.allowed == "16"
    assert "jamba keeps no keys and values that fit a longer text" in error.value.message
    with pytest.raises(ArgumentError) as error:
        tokenize_all(slot, [TEXT], prepend_bos=True, chat=False, most=8192)
    assert "In chunks" not in error.value.hint, "nothing reads more of this model"


def test_an_sae_that_looks_back_is_named(tiny: AppState) -> None:
    slot = slot_of(next(iter(tiny.models.values())).model)
    long = Long(looks_back="m/1.resid_post")
    with pytest.raises(ArgumentError, match=r"m/1\.resid_post needs a whole text at once"):
        tokenize_all(slot, [TEXT], prepend_bos=True, chat=False, most=8192, long=long)


def slot_of(model: LanguageModel) -> ModelSlot:
    return ModelSlot("m", model, set(), Settings(max_tokens=16), Workers(1, 1.0))


def _equal(one: Any, other: Any) -> None:
    """Numbers of a reply have four digits: the last may be rounded either way."""
    if isinstance(one, dict):
        for key in one.keys() - {"result_id"}:
            _equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _equal(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=2e-3)
    else:
        assert one == other
