"""The shape of every failure: code, message, field, got, allowed, hint; no secret in it, nothing
unprintable, nothing long."""

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|Bearer\s+\S+"
    r"|(?:X-Amz-Signature|Signature|Key-Pair-Id)=[^&\s]+"
)


def error_document(
    code: str, message: str, *, hint: str, field: str = "", got: str = "", allowed: str = ""
) -> dict[str, str]:
    fields = {
        "code": code,
        "message": message,
        "field": field,
        "got": got,
        "allowed": allowed,
        "hint": hint,
    }
    return {name: _clean(value, 300 if name == "got" else 1500) for name, value in fields.items()}


def refusal_text(document: Mapping[str, str]) -> str:
    """`CODE: what is wrong (got ...; allowed ...). Next: the exact call.`"""
    return f"{document['code']}: {what_is_wrong(document)} Next: {document['hint']}"


def what_is_wrong(document: Mapping[str, str]) -> str:
    """The message with what was given and what is allowed, where it does not say so itself."""
    message = document["message"]
    details = [
        f"{name} {document[name]}"
        for name in ("got", "allowed")
        if document.get(name) and document[name] not in message
    ]
    aside = f" ({'; '.join(details)})" if details else ""
    return f"{message.removesuffix('.')}{aside}."


def show(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | list | dict) and len(value) > 100:
        return f"{type(value).__name__} of length {len(value)}"
    return _clean(repr(value), 120)


def _clean(text: str, limit: int) -> str:
    text = _SECRET.sub("[secret]", text).encode("utf-8", "replace").decode()
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
