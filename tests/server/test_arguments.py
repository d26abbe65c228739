"""Bad arguments: each is refused with a code and the exact next step, before anything is loaded."""

from typing import Any

import pytest
from mcp import Client
from tests.server.helpers import refuse

from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

SAE = {"sae": "x/1.resid_post"}
TRAIN = {"hook_name": "blocks.1.hook_resid_post"}
STEER = {**SAE, "prompt": "a"}

BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("top_features", {**SAE, "text": "a", "kk": 3}, "UNKNOWN_ARGUMENT", "'k' instead of 'kk'"),
    (
        "steer_generate",
        {**STEER, "features": [{"featur": 3}]},
        "UNKNOWN_ARGUMENT",
        "'feature' instead of 'featur'",
    ),
    ("top_features", {"text": "a"}, "MISSING_ARGUMENT", "sae"),
    ("top_features", SAE, "MISSING_ARGUMENT", "text"),
    ("intervene", STEER, "MISSING_ARGUMENT", "edits"),
    (
        "top_features",
        {**SAE, "text": "a", "texts": ["b"]},
        "CONFLICTING_ARGUMENTS",
        "one of text and texts",
    ),
    ("top_features", {**SAE, "text": "a", "k": "5"}, "INVALID_TYPE", "k as an integer"),
    ("top_features", {**SAE, "text": "a", "k": True}, "INVALID_TYPE", "k as an integer"),
    ("top_features", {**SAE, "text": 5}, "INVALID_TYPE", "text as a string"),
    ("top_features", {**SAE, "texts": "a"}, "INVALID_TYPE", "texts as a list"),
    ("top_features", {**SAE, "text": None}, "INVALID_TYPE", "text as a string"),
    ("steer_generate", {**STEER, "features": [3]}, "INVALID_TYPE", "features[0] as an object"),
    ("intervene", {**SAE, "prompt": "a", "edits": []}, "TOO_FEW_ITEMS", "at least one"),
    (
        "steer_generate",
        {**STEER, "features": [{"feature": 1}] * 17},
        "TOO_MANY_ITEMS",
        "shorter features",
    ),
    ("top_features", {**SAE, "texts": ["a"] * 100_000}, "TOO_MANY_ITEMS", "shorter texts"),
    ("top_features", {**SAE, "text": "a" * 300_000}, "TOO_LONG", "shorter text"),
    ("top_features", {"sae": "a" * 300, "text": "a"}, "TOO_LONG", "shorter sae"),
    ("top_features", {**SAE, "text": "a", "k": 0}, "OUT_OF_RANGE", "k=1"),
    ("top_features", {**SAE, "text": "a", "k": 101}, "OUT_OF_RANGE", "k=100"),
    ("top_features", {**SAE, "text": "a", "k": 10**4000}, "OUT_OF_RANGE", "k=100"),
    (
        "steer_generate",
        {**STEER, "features": [{"feature": -1}]},
        "OUT_OF_RANGE",
        "features[0].feature=0",
    ),
    (
        "steer_generate",
        {**STEER, "features": [{"feature": 1, "strength": -1e38}]},
        "OUT_OF_RANGE",
        "strength=-1000",
    ),
    (
        "steer_generate",
        {**STEER, "features": [{"feature": 1}], "max_new_tokens": 10**9},
        "OUT_OF_RANGE",
        "max_new_tokens=256",
    ),
    (
        "steer_generate",
        {**STEER, "features": [{"feature": 1}], "temperature": -1.0},
        "OUT_OF_RANGE",
        "temperature=0",
    ),
    (
        "steer_generate",
        {**STEER, "features": [{"feature": 1}], "n_samples": 2},
        "CONFLICTING_ARGUMENTS",
        "temperature > 0",
    ),
    (
        "steer_generate",
        {**STEER, "features": [{"feature": 1, "mode": "clmp"}]},
        "INVALID_CHOICE",
        "mode='clamp'",
    ),
    ("load_sae", {"dtype": "flaot32"}, "INVALID_CHOICE", "dtype='float32'"),
    ("top_features", {**SAE, "text": "a\0b"}, "INVALID_STRING", "text"),
    ("top_features", {"sae": "a\u202eb", "text": "a"}, "INVALID_ID", "sae"),
    ("load_sae", {"release": "../../etc"}, "INVALID_REPO_ID", "release"),
    ("load_sae", {"release": "a/b", "sae_id": "../x"}, "INVALID_REPO_ID", "sae_id"),
    ("load_sae", {"model": "http://169.254.169.254/x"}, "INVALID_REPO_ID", "model"),
    ("load_sae", {"release": "gpt2-small-res-jb"}, "MISSING_ARGUMENT", "blocks.0.hook_resid_pre"),
    ("load_sae", {"sae_id": "blocks.0.hook_resid_pre"}, "MISSING_ARGUMENT", "release"),
    ("load_sae", {"revision": "v1", "path": "/nowhere"}, "MISSING_ARGUMENT", "release"),
    (
        "load_sae",
        {"release": "gpt2-small-res-jbb", "sae_id": "x"},
        "RELEASE_NOT_FOUND",
        'find_saes(query="gpt2-small-res-jb")',
    ),
    ("load_sae", {"gate": "sealens"}, "INVALID_CHOICE", "gate='saelens'"),
    ("find_saes", {"layer": -2}, "OUT_OF_RANGE", "layer=-1"),
    ("find_saes", {"layer": None}, "INVALID_TYPE", "layer as an integer"),
    ("find_saes", {"limit": 1000}, "OUT_OF_RANGE", "limit=100"),
    ("load_sae", {"path": "/etc"}, "PATH_NOT_ALLOWED", "SAESCOPE_READ_ROOTS"),
    ("load_sae", {"model": "/proc/self/environ"}, "PATH_NOT_ALLOWED", "SAESCOPE_READ_ROOTS"),
    ("load_sae", {"path": "/" + "a" * 300}, "TOO_LONG", "path"),
    ("unload", {"handle": "nothing"}, "HANDLE_NOT_FOUND", "server_status()"),
    ("job_status", {"job_id": "load-1"}, "JOB_NOT_FOUND", "job_status()"),
    ("train_sae", {}, "MISSING_ARGUMENT", "hook_name"),
    (
        "train_sae",
        {**TRAIN, "hook_nam": "x"},
        "UNKNOWN_ARGUMENT",
        "'hook_name' instead of 'hook_nam'",
    ),
    (
        "train_sae",
        {**TRAIN, "d_sae": 64, "expansion_factor": 2},
        "CONFLICTING_ARGUMENTS",
        "one of expansion_factor and d_sae",
    ),
    (
        "train_sae",
        {**TRAIN, "l0_coefficient": 4.0},
        "CONFLICTING_ARGUMENTS",
        "k in place of l0_coefficient",
    ),
    (
        "train_sae",
        {**TRAIN, "architecture": "gated", "l1_coefficient": 4.0, "k": 9.0},
        "CONFLICTING_ARGUMENTS",
        "one of k and l1_coefficient",
    ),
    ("train_sae", {**TRAIN, "architecture": "top_k"}, "INVALID_CHOICE", "architecture='topk'"),
    ("train_sae", {**TRAIN, "training_tokens": 0}, "OUT_OF_RANGE", "training_tokens=1"),
    (
        "train_sae",
        {**TRAIN, "training_tokens": 10**12},
        "OUT_OF_RANGE",
        "training_tokens=1000000000",
    ),
    ("train_sae", {**TRAIN, "d_sae": 10**13}, "OUT_OF_RANGE", "d_sae=16777216"),
    ("train_sae", {**TRAIN, "name": "../x"}, "INVALID_NAME", "without folders"),
    ("train_sae", {**TRAIN, "name": "CON"}, "INVALID_NAME", "without folders"),
    ("train_sae", {**TRAIN, "name": "/absolute"}, "INVALID_NAME", "without folders"),
    ("train_sae", {**TRAIN, "dataset": "http://169.254.169.254/x"}, "INVALID_REPO_ID", "dataset"),
    ("train_sae", {**TRAIN, "dataset": "/etc/passwd"}, "PATH_NOT_ALLOWED", "SAESCOPE_READ_ROOTS"),
    ("train_sae", {**TRAIN, "options": ["a=b"] * 50}, "TOO_MANY_ITEMS", "shorter options"),
    ("train_sae", {"resume": "train-1"}, "JOB_NOT_FOUND", "job_status()"),
    ("cancel_job", {"job_id": "train-1"}, "JOB_NOT_FOUND", "job_status()"),
    ("evaluate_sae", {**SAE}, "SAE_NOT_LOADED", "load_sae()"),
    ("top_featurs", {}, "UNKNOWN_TOOL", "Call top_features"),
    ("encode_text", {**SAE, "text": "a"}, "SAE_NOT_LOADED", "load_sae()"),
]


@pytest.mark.parametrize(("tool", "arguments", "code", "hint"), BAD)
async def test_a_bad_argument_is_refused_with_what_to_do(
    state: AppState, tool: str, arguments: dict[str, Any], code: str, hint: str
) -> None:
    error = await refuse(state, tool, **arguments)
    assert set(error) == {"code", "message", "field", "got", "allowed", "hint"}
    assert error["code"] == code
    assert hint in error["hint"]
    assert len(str(error)) < 2000


TWO = {"texts": ["a", "b"], "text": "a"}
STEPS = [
    ("top_features", {**SAE, "saes": ["c/d", "e/f"], "text": "a"}, "with one of sae and saes."),
    ("top_features", {**SAE, **TWO}, "with one of text and texts."),
    (
        "top_features",
        {**SAE, **TWO, "texts_file": "a.csv"},
        "with one of text, texts and texts_file.",
    ),
    ("top_features", {**SAE}, "with exactly one of text, texts and texts_file."),
    ("top_features", {"text": "a"}, "with sae, a handle from load_sae."),
    (
        "top_features",
        {**SAE, "text": "a", "against": ["b"], "against_file": "c.csv"},
        "with one of against and against_file.",
    ),
    (
        "top_features",
        {**SAE, "text": "a", "texts_column": "b"},
        "with texts_file as well as texts_column.",
    ),
    (
        "find_features",
        {**SAE, "query": "a", "tokens": ["b"]},
        "with exactly one of query, tokens, texts, texts_file and causes.",
    ),
    (
        "find_features",
        {**SAE, "texts": ["a"], "unconfirmed": True},
        "with against as well as documents or unconfirmed.",
    ),
    (
        "find_features",
        {**SAE, "texts": ["a"], "against": ["b"], "offset": 3},
        "with offset=0: the features of a contrast are tested together.",
    ),
    ("publish_sae", {"path": "a"}, "with one of sae and job_id."),
    ("publish_sae", {**SAE, "path": "a", "repo_id": "b/c"}, "with one of repo_id and path."),
    ("train_sae", {}, "with hook_name or resume."),
    (
        "intervene",
        {"prompt": "a", "saes": ["a/b"], "edits": [{"feature": 1}]},
        "without 'saes': each of edits names its own 'sae'.",
    ),
    (
        "steer_generate",
        {"prompt": "a", "saes": ["a/b"], "features": [{"feature": 1}]},
        "without 'saes': each of features names its own 'sae'.",
    ),
    (
        "intervene",
        {"prompt": "a", **SAE, "feature": 1, "edits": [{"feature": 1}]},
        "without 'feature': each of edits names its own 'feature'.",
    ),
    (
        "intervene",
        {"prompt": "a", "edits": [{"feature": 1}]},
        "with sae, a handle from load_sae, for the call or in each feature.",
    ),
    ("intervene", {"prompt": "a", **SAE, "edits": []}, "with at least one item in edits."),
    ("encode_text", {**SAE, "text": "a", "quota": [1]}, "without 'quota'."),
    ("load_sae", {"path": "https://x.org/y"}, "with path as a local path, or a plain name."),
]


@pytest.mark.parametrize(("tool", "arguments", "said"), STEPS)
async def test_the_next_step_is_a_whole_sentence(
    state: AppState, tool: str, arguments: dict[str, Any], said: str
) -> None:
    error = await refuse(state, tool, **arguments)
    assert error["hint"] == f"Call {tool} again {said}"
    first = error["message"].split()[0]
    assert "_" not in first or first.islower()  # a name is spelled as it is


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_a_number_that_is_not_finite_is_refused(state: AppState, value: float) -> None:
    tool = next(tool for tool in ALL_TOOLS if tool.name == "steer_generate")
    outcome = await tool.call(state, {**STEER, "features": [{"feature": 1, "strength": value}]})
    assert outcome.is_error and outcome.document["code"] == "NON_FINITE_ARGUMENT"


async def test_half_a_surrogate_pair_is_refused(state: AppState) -> None:
    tool = next(tool for tool in ALL_TOOLS if tool.name == "encode_text")
    outcome = await tool.call(state, {**SAE, "text": "a\ud800"})
    assert outcome.is_error and outcome.document["code"] == "INVALID_STRING"
    assert outcome.text.encode()


async def test_a_limit_from_the_settings_is_published_and_enforced() -> None:
    state = AppState(Settings(max_k=5))
    async with Client(build_server(state=state)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools["top_features"].input_schema["properties"]["k"]["maximum"] == 5
    assert (await refuse(state, "top_features", **SAE, text="a", k=6))["code"] == "OUT_OF_RANGE"


async def test_all_that_is_wrong_is_said_at_once(state: AppState) -> None:
    error = await refuse(state, "top_features", txt="a", k=0)
    assert error["code"] == "UNKNOWN_ARGUMENT"
    assert "MISSING_ARGUMENT 'sae'" in error["message"] and "OUT_OF_RANGE 'k'" in error["message"]
