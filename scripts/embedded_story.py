"""The figures of docs/ten_minutes.md, measured on the embedded SAE, and the page made of them.

`scripts/build_embedded_landmarks.py` measures and writes; the text is scripts/ten_minutes.md.in.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import saescope as ss

TEMPLATE = Path(__file__).with_name("ten_minutes.md.in")
PAGE = Path(__file__).parents[1] / "docs" / "ten_minutes.md"
TEXT = "Mary said that she had lost her keys."
STEERED = "I went to the window and saw"
CONCEPT = (" she", " woman")
FEMALE = (
    r"(?i)\b(she|her|hers|herself|wom[ae]n|girls?|lady|ladies|mothers?|sisters?|daughters?"
    r"|wife|wives|queens?|mrs|miss|aunts?)\b"
)
READ_TOKENS = 4000
"""Tokens of the embedded corpus that the feature is tested on: half a minute on a CPU."""


def page(landmarks: dict[str, Any]) -> str:
    """The page with the figures in their places."""
    known = {**landmarks, **landmarks["check"], **landmarks["story"]}
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: str(known[match[1]]), text)


def story(model: Any, sae: Any, *, prompt: str, told: Any, feature: int) -> dict[str, Any]:
    """Every figure that the page names; `told` is the attribution of " she" against " he"."""
    index: Any = ss.find_index(sae, model)
    figures = {
        "model_name": model.name.rpartition("/")[2],
        "layer": sae.cfg.metadata.hook_name.split(".")[1],
        "d_in": sae.cfg.d_in,
        "k": sae.cfg.k,
        "index_tokens": f"{index.manifest.n_tokens:,}",
    }
    figures |= _reading(model, sae) | _attribution(told, feature)
    figures |= _card(model, sae, feature, index)
    figures |= _agreement(model, sae, feature, 0.5 * float(index.typical[feature]))
    indexed = _indexed(index)
    figures |= _ablation(model, sae, prompt, feature=feature, indexed=indexed)
    return figures | _steering(model, sae, feature, indexed)


def _indexed(index: Any) -> Any:
    from saescope.steering import IndexedActivations

    corpus = f"{index.manifest.n_tokens:,} tokens of {index.manifest.dataset}"
    return IndexedActivations(index.maxima, index.typical, corpus)


def _reading(model: Any, sae: Any) -> dict[str, Any]:
    tokens = model.tokenize(TEXT, prepend_bos=sae.cfg.metadata.prepend_bos)
    ranking = ss.rank_features(model, sae, [tokens], k=4)
    rows = [
        f"| {row.feature} | {row.n_tokens} | {row.max_activation:.0f} "
        f"| {_quoted([row.top_token.token])} | {_quoted(row.promotes[:3])} |"
        for row in ranking.features
    ]
    return {
        "text": TEXT,
        "n_tokens": ranking.n_tokens,
        "n_fire": ranking.total,
        "reading_rows": "\n".join(rows),
    }


def _attribution(told: Any, feature: int) -> dict[str, Any]:
    rows = [
        f"| {row.feature} | {_quoted([row.token])} | {row.activation:.1f} "
        f"| {row.attribution:+.2f} | {row.measured_effect:+.2f} |"
        for row in told.features
    ]
    own = [row.measured_effect for row in told.features if row.feature == feature]
    return {
        "attribution_rows": "\n".join(rows),
        "n_own": len(own),
        "own_sum": f"{sum(own):.1f}",
        "difference": f"{told.target.logit - told.against.logit:.1f}",
        "joint": f"{told.joint.measured_effect:+.1f}",
        "n_joint": len(told.features),
        "joint_control": f"{told.joint.control.mean:+.1f}",
        "joint_sd": f"{told.joint.control.sd:.1f}",
        "joint_p": f"{told.joint.control.p:.2f}",
        "error_share": f"{100 * told.error_share:.0f} %",
        "error_effect": f"{told.error_effect:+.1f}",
    }


def _ablation(model: Any, sae: Any, prompt: str, *, feature: int, indexed: Any) -> dict[str, Any]:
    tokens = model.tokenize(prompt, prepend_bos=sae.cfg.metadata.prepend_bos)
    edit = ss.FeatureEdit(feature=feature, mode="ablate")
    versus = ss.intervene(model, sae, tokens, [edit], target=" she", against=" he", indexed=indexed)
    alone = ss.intervene(model, sae, tokens, [edit], target=" she")
    return {
        "she_before": _percent(versus.before.target),
        "she_after": _percent(versus.after.target),
        "he_before": _percent(versus.before.against),
        "he_after": _percent(versus.after.against),
        "effect": f"{versus.effect:+.1f}",
        "control": f"{versus.control.mean:+.2f}",
        "control_sd": f"{versus.control.sd:.2f}",
        "control_p": f"{versus.control.p:.2f}",
        "logprob": f"{alone.effect:+.2f}",
        "factor": f"{math.exp(alone.effect):.2f}",
    }


def _card(model: Any, sae: Any, feature: int, index: Any) -> dict[str, Any]:
    card: Any = ss.feature_card(model, sae, feature, index=index)
    partners = [
        f"{near.feature} (strongest on {_quoted([near.top_token])})"
        for near in card.cofiring
        if near.top_token
    ]
    return {
        "density": f"{100 * card.density:.0f} %",
        "typical": f"{card.typical_activation:.0f}",
        "largest": f"{card.max_activation:.0f}",
        "promotes": _quoted([row.token for row in card.promotes[:5]]),
        "partners": ", ".join(partners[:3]),
    }


def _agreement(model: Any, sae: Any, feature: int, strong: float) -> dict[str, Any]:
    from saescope.activations import open_dataset

    read = ss.dataset_passages(
        model, open_dataset("embedded"), n_tokens=READ_TOKENS, pattern=FEMALE
    )
    found: Any = ss.find_firings(model, sae, read, features=[feature])
    test, loud = found.features[0].by_token, found.acts[:, 0] >= strong
    return {
        "strong_precision": f"{100 * float(found.matched[loud].float().mean()):.0f} %",
        "read_tokens": f"{READ_TOKENS:,}",
        "precision": f"{100 * test.precision.value:.0f} %",
        "recall": f"{100 * test.recall.value:.0f} %",
        "base_rate": f"{100 * test.base_rate:.1f} %",
    }


def _steering(model: Any, sae: Any, feature: int, indexed: Any) -> dict[str, Any]:
    done: Any = ss.steer(
        model,
        sae,
        model.tokenize(STEERED, prepend_bos=sae.cfg.metadata.prepend_bos),
        [ss.FeatureEdit(feature=feature, strength=0.8)],
        indexed=indexed,
        max_new_tokens=24,
        n_controls=1,
        concept_tokens=[model.single_token(token) for token in CONCEPT],
    )
    return {
        "steered_prompt": STEERED,
        "plain_text": _one_line(done.baseline.text),
        "steered_text": _one_line(done.steered[0].text),
        "control_text": _one_line(done.controls[0].text),
        "push": f"{done.concept_logprob:+.1f}",
        "push_factor": f"{math.exp(done.concept_logprob):.0f}",
        "push_control": f"{done.concept_control.mean:+.2f}",
        "push_p": f"{done.concept_control.p:.2f}",
    }


def _percent(token: Any) -> str:
    return f"{100 * token.prob:.2g} %"


def _quoted(tokens: list[str]) -> str:
    return ", ".join(f"`{json.dumps(token, ensure_ascii=False)}`" for token in tokens)


def _one_line(text: str) -> str:
    return " ".join(text.split())
