"""Errors and warnings of the core reach the user of the tools with the next call in the tools'
words."""

from typing import Any

import pytest

from saescope.errors import SaescopeError
from saescope_mcp.replies import refusal
from saescope_mcp.replies.steps import STEPS, as_tools_say


def hint_of(code: str, hint: str, facts: dict[str, Any]) -> str:
    error = SaescopeError("It failed.", code=code, hint=hint, facts=facts)
    return refusal("any", error)["hint"]


@pytest.mark.parametrize(
    ("code", "hint", "facts", "said"),
    [
        (
            "QUIZ_USED",
            "make_quiz",
            {"feature": 7},
            'Make a new one: quiz_feature(sae="...", feature=7).',
        ),
        ("QUIZ_NOT_FOUND", "make_quiz", {"feature": 7}, 'Call quiz_feature(sae="...", feature=7).'),
        (
            "RELEASE_NOT_FOUND",
            'Call ss.find_saes(query="gpt2").',
            {"query": "gpt2"},
            'Call find_saes(query="gpt2").',
        ),
        (
            "COLUMN_NOT_FOUND",
            'Name it: text_column="a".',
            {"column": "a"},
            'Name it: text_column="a"; for train_sae options=["text_column=a"].',
        ),
        (
            "HOOK_UNKNOWN",
            'Name it: ss.load_sae(..., known={"hook_name": "x"}).',
            {"example": "x"},
            'Name it: load_sae(..., hook_name="x").',
        ),
        (
            "MODEL_MISMATCH",
            "",
            {"model": "gpt2"},
            'Call load_sae with model="gpt2", or with allow_mismatch=true to use it on '
            "a relative on purpose.",
        ),
        ("PATH_NOT_ALLOWED", "", {"roots": ()}, "SAESCOPE_READ_ROOTS"),
        ("TOO_MANY_ITEMS", "", {"most": 1}, "SAESCOPE_MAX_FILE_TEXTS"),
        (
            "NOT_CACHED_OFFLINE",
            "",
            {"cached": False},
            "Call server_status(): it lists what is cached here",
        ),
        ("NOT_CACHED_OFFLINE", "", {"model": "gpt2"}, 'load_sae(..., model="/path/to/folder")'),
        (
            "LOGGER_FAILED",
            "Drop it: the run's history has it.",
            {"logger": "x"},
            "job_status has it",
        ),
        ("NOT_ON_NEURONPEDIA", "", {"id": ""}, "Call find_saes(): it lists"),
        ("TOO_FEW_TEXTS", "", {"least": 4}, "top_features(text=..., against=[...]"),
    ],
)
def test_a_code_and_its_facts_become_the_call_of_a_tool(
    code: str, hint: str, facts: dict[str, Any], said: str
) -> None:
    assert said in hint_of(code, hint, facts)


def test_a_code_without_facts_keeps_its_own_hint() -> None:
    assert all(hint_of(code, "Do that.", {}) == "Do that." for code in STEPS)


def test_functions_of_the_library_go_by_the_names_of_their_tools() -> None:
    text = "ss.index_features makes one; or give include_special=True, skip=False."
    assert as_tools_say(text) == (
        "index_features makes one; or give include_special=true, skip=false."
    )
    assert as_tools_say("class.load_sae stays") == "class.load_sae stays"


def test_what_a_user_wrote_is_quoted_as_it_was_written() -> None:
    """Arguments of the library become those of a tool; a token that looks like one does not."""
    said = as_tools_say(
        "Give include_special=True; 'debug=True' is not one token, nor is 'x=False'."
    )
    assert said == "Give include_special=true; 'debug=True' is not one token, nor is 'x=False'."
