"""Control characters, bidi, markup that gives orders, half emojis and huge words, through every
reply that can carry a text."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.attack.conftest import Attack
from tests.attack.hostile import TEXTS, unsafe
from tests.server.knowing import Bench

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.state import AppState

TOOLS = {tool.name: tool for tool in ALL_TOOLS}
SLACK = 1.2


def calls_of(text: str, sae: str, file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every tool that takes or gives text, with this one."""
    edit = {"feature": 1, "mode": "ablate"}
    return [
        ("label_feature", {"sae": sae, "feature": 1, "text": text}),
        ("describe_feature", {"sae": sae, "feature": 1}),
        ("find_features", {"sae": sae, "query": text}),
        ("find_features", {"sae": sae, "texts": [text, " King"]}),
        ("top_features", {"sae": sae, "text": text}),
        ("encode_text", {"sae": sae, "text": text, "response_format": "detailed"}),
        ("attribute_logit", {"sae": sae, "prompt": text, "target": text}),
        ("attribute_logit", {"sae": sae, "prompt": " King" + text[:200], "n_controls": 0}),
        ("trace_circuit", {"sae": sae, "prompt": " King" + text[:200], "n_measured": 0}),
        ("intervene", {"sae": sae, "prompt": " King" + text[:200], "edits": [edit]}),
        (
            "steer_generate",
            {
                "sae": sae,
                "prompt": " King" + text[:200],
                "features": [{"feature": 1, "strength": 1.0}],
                "max_new_tokens": 2,
                "n_controls": 0,
            },
        ),
        ("find_saes", {"query": text}),
        ("load_sae", {"path": text, "wait_s": 0.0}),
        ("load_sae", {"model": text, "wait_s": 0.0}),
        ("evaluate_sae", {"sae": sae, "dataset": str(file), "n_tokens": 200, "wait_s": 20.0}),
        ("evaluate_sae", {"sae": sae, "dataset": text, "wait_s": 0.0}),
        ("publish_sae", {"sae": sae, "path": text, "sae_id": text, "dry_run": True}),
        ("job_status", {"job_id": text}),
        ("unload", {"handle": text or "none"}),
    ]


async def check(state: AppState, name: str, arguments: dict[str, Any]) -> None:
    outcome = await TOOLS[name].call(state, arguments)
    said = outcome.text
    assert outcome.document.get("code") != "INTERNAL", said[:500]
    assert not unsafe(said) - ({"\n"} if outcome.is_error else set()), f"raw {unsafe(said)!r}"
    most = SLACK * 3 * state.settings.max_result_tokens
    assert len(said.encode()) <= most, f"{len(said.encode())} bytes"
    json.dumps(outcome.document, allow_nan=False).encode()


async def hurt(state: AppState, sae: str, attack: Attack, folder: Path, texts: list[str]) -> None:
    for i, text in enumerate(texts):
        file = folder / f"{i}.jsonl"
        rows = [json.dumps({"text": f"{n} King {text[:2000]}"}) for n in range(120)]
        file.write_text("\n".join(rows), encoding="utf-8")
        for name, arguments in calls_of(text, sae, file):
            with attack.case(f"{name} {text!r:.60}"):
                await check(state, name, arguments)


async def opened(bench: Bench, glass_dir: Path, folder: Path) -> tuple[AppState, str]:
    state, sae = await bench.loaded(glass_dir, indexed=True)
    roots = (*state.settings.read_roots, folder)
    state.settings = state.settings.model_copy(update={"read_roots": roots})
    return state, sae


async def test_some_hostile_texts(
    attack: Attack, bench: Bench, glass_dir: Path, tmp_path: Path
) -> None:
    state, sae = await opened(bench, glass_dir, tmp_path)
    await hurt(state, sae, attack, tmp_path, attack.rng.sample(TEXTS, 2))


@pytest.mark.attack
@pytest.mark.parametrize("n", range(len(TEXTS)))
async def test_every_hostile_text(
    n: int, attack: Attack, bench: Bench, glass_dir: Path, tmp_path: Path
) -> None:
    state, sae = await opened(bench, glass_dir, tmp_path)
    await hurt(state, sae, attack, tmp_path, [TEXTS[n]])
