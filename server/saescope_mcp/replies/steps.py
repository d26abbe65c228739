"""What the library says, in the words of the tools: the core knows no tool, and this is the one
place that knows both.

An error of the core carries a code and the facts that its next call is made of. `STEPS` has that
call for each code whose step is another one for a tool than for the library; everywhere else it is
enough to call the functions by the names of their tools.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from saescope.errors import SaescopeError
from saescope_mcp.binding import next_call
from saescope_mcp.state.sources import KnownHandles

MOST_NAMED = 3
"""How many SAEs in the user's own files an error for want of a network names."""
_TOOLS = {
    "ss.load_sae": "load_sae",
    "ss.load_set": "load_sae",
    "ss.index_features": "index_features",
    "ss.intervene": "intervene",
    "ss.rank_features": "top_features",
    "ss.find_saes": "find_saes",
    "ss.make_quiz": "quiz_feature",
    "ss.publish_sae": "publish_sae",
    "ss.export_report": "export_report",
}
"""The tool that does what a function of the library does."""
_FUNCTION = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in _TOOLS))
_SWITCHES = ("allow_mismatch", "dry_run", "include_special", "join_documents", "private", "skip")
"""Arguments that the library's texts set; what a user's own text says, quoted there, stays as it
is."""
_SWITCH = re.compile(rf"\b({'|'.join(_SWITCHES)})=(True|False)\b")


def as_tools_say(text: str) -> str:
    """A text of the library with its functions under the names of their tools, and JSON's true and
    false."""
    text = _FUNCTION.sub(lambda match: _TOOLS[match[0]], text)
    return _SWITCH.sub(lambda match: match[0].lower(), text)


def next_step(error: SaescopeError) -> str:
    """What to call after this error; the hint itself where no other step is known."""
    step = STEPS.get(error.code) if error.facts else None
    return step(error.hint, error.facts) if step else as_tools_say(error.hint)


def _column(hint: str, facts: Mapping[str, Any]) -> str:
    return f'{hint.removesuffix(".")}; for train_sae options=["text_column={facts["column"]}"].'


def _quiz(hint: str, facts: Mapping[str, Any]) -> str:
    return f"Call {_a_quiz(facts)}."


def _another_quiz(hint: str, facts: Mapping[str, Any]) -> str:
    return f"Make a new one: {_a_quiz(facts)}."


def _a_quiz(facts: Mapping[str, Any]) -> str:
    return next_call("quiz_feature", sae="...", feature=facts["feature"])


def _not_cached(hint: str, facts: Mapping[str, Any]) -> str:
    """A model's files, those of the embedded model, or an SAE's."""
    here = facts.get("here", [])
    if "model" in facts:
        return (
            "Connect to the network, or use a local folder: "
            'load_sae(..., model="/path/to/folder"); load_sae() alone needs no hub. '
            f"Models cached here: {', '.join(here) or 'none'}."
        )
    if "embedded" in facts:
        return hint.replace('ss.load_model("...")', 'load_sae(path="...", model="...")')
    here = [*map(as_tools_say, here), *KnownHandles().local()[:MOST_NAMED]]
    return (
        f"Here without the network: {', '.join(here) or 'nothing published'}. "
        "Call server_status(): it lists what is cached here and says whether the network is there; "
        "this one needs it once (the user decides), then works offline."
    )


def _another_hook(hint: str, facts: Mapping[str, Any]) -> str:
    before = hint.partition("ss.load_sae")[0]
    return f'{before}load_sae(..., hook_name="{facts["example"]}").'


def _another_model(hint: str, facts: Mapping[str, Any]) -> str:
    return (
        f'Call load_sae with model="{facts["model"]}", '
        "or with allow_mismatch=true to use it on a relative on purpose."
    )


def _without_logger(hint: str, facts: Mapping[str, Any]) -> str:
    return hint.replace("the run's history has", "job_status has")


STEPS: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    "COLUMN_NOT_FOUND": _column,
    "COLUMN_NOT_TEXT": _column,
    "CROSS_LAYER_FEATURE": lambda hint, facts: (
        'Call load_sae(path=".../W_enc_5.safetensors"), or with the release of the cross-layer '
        "transcoder: its own files have the decoder of every layer."
        if facts["copy"]
        else 'Call trace_circuit with the handle of the whole set (load_sae with layers="all"), or '
        "change features with intervene or steer_generate."
    ),
    "HOOK_UNKNOWN": _another_hook,
    "LAYERS_NOT_LOADED": lambda hint, facts: (
        f'Call unload(handle="{facts["handle"]}"), then load_sae again without up_to_site, then '
        "the same call."
    ),
    "LOGGER_FAILED": _without_logger,
    "LOGIN_MISSING": _without_logger,
    "MODEL_MISMATCH": _another_model,
    "NOT_CACHED_OFFLINE": _not_cached,
    "NOT_ON_NEURONPEDIA": lambda hint, facts: (
        "Call find_saes(): it lists the SAEs that have one as neuronpedia_id."
    ),
    "PATH_NOT_ALLOWED": lambda hint, facts: (
        "Copy it below one of them, or start the server with SAESCOPE_READ_ROOTS set."
    ),
    "QUIZ_MISMATCH": _quiz,
    "QUIZ_NOT_FOUND": _quiz,
    "QUIZ_USED": _another_quiz,
    "RESULT_NOT_FOUND": lambda hint, facts: "Call results(): it lists what is kept.",
    "SITE_NOT_FOUND": _another_hook,
    "TOO_FEW_TEXTS": lambda hint, facts: (
        "For one text against one other, call top_features(text=..., against=[...], "
        'rank_by="contrast").'
    ),
    "TOO_MANY_ITEMS": lambda hint, facts: (
        "Split the file, or start the server with SAESCOPE_MAX_FILE_TEXTS set."
    ),
}
"""Takes the hint for the library and the facts, gives the step for a tool."""
