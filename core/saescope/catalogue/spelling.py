"""One spelling for names that people write in many ways."""

import re

_ALIASES = {
    "gpt2": "gpt2-small",
    "mistral-7b-v0.1": "mistral-7b",
    "gemma-3-270m-pt": "gemma-3-270m",
    "llama-3-8b-instruct": "meta-llama-3-8b-instruct",
    "llama-3-8b-it": "meta-llama-3-8b-instruct",
}
_BETWEEN = re.compile(r"[-_ /]+")


def canonical_model(name: str) -> str:
    """One spelling for a model's many names: "google/gemma-2-2b", "gemma2-2b" -> "gemma2-2b"."""
    short = re.sub(r"[_ ]+", "-", name.strip().rpartition("/")[2].lower())
    short = re.sub(r"^([a-z]+)-(?=\d)", r"\1", _ALIASES.get(short, short))
    return _ALIASES.get(short, short)


def squeezed(text: str) -> str:
    """Lower case, without hyphens, underscores, blanks and slashes: what stays where people write a
    name differently."""
    return _BETWEEN.sub("", text.lower())
