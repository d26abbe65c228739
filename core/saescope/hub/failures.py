"""What a request to the hub failed with, as our error: what happened and the next step, without the
original text."""

from typing import NamedTuple

from saescope.catalogue import on_this_machine
from saescope.embedded import is_ready
from saescope.errors import ArgumentError, NotFoundError, OfflineError, SaescopeError
from saescope.network import Unreached

MOST_NAMED = 3
"""How many published SAEs that are on this machine an error names."""

_LOG_IN = "log in (`hf auth login`, or set HF_TOKEN)"
_NO_HEADER = ("UnicodeEncodeError", "LocalProtocolError")
_FINAL = (*_NO_HEADER, "OfflineModeIsEnabled", "UnsupportedProtocol", "Unreached")
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Failure(NamedTuple):
    kinds: tuple[str | int, ...]
    """Names of exceptions, or HTTP statuses."""
    error: type[SaescopeError]
    code: str
    field: str
    message: str
    hint: str


_FAILURES = (
    _Failure(
        ("GatedRepoError",), NotFoundError, "REPO_GATED", "release",
        "{what} is gated: the hub wants you to accept its terms.",
        f"Accept the terms on its page on the hub, {_LOG_IN}, and call again.",
    ),
    _Failure(
        ("RevisionNotFoundError",), NotFoundError, "REVISION_NOT_FOUND", "revision",
        "{what}: there is no such revision.",
        "Leave revision out, or give a branch, tag or commit.",
    ),
    _Failure(
        ("RemoteEntryNotFoundError", "EntryNotFoundError"), NotFoundError, "FILE_MISSING", "sae_id",
        "The hub has no file {what}.",
        "Check sae_id; ss.find_saes lists what is published.",
    ),
    _Failure(
        ("RepositoryNotFoundError", "DisabledRepoError", 404),
        NotFoundError, "REPO_NOT_FOUND", "release",
        "The hub has no {what}, or it is private.",
        f"Check the name; for a private repository {_LOG_IN}.",
    ),
    _Failure(
        (401, 403), NotFoundError, "HUB_ACCESS_DENIED", "release",
        "The hub refuses access to {what} (HTTP {status}).",
        "Check the token (HF_TOKEN, or `hf auth whoami`) and that its account may "
        "read the repository.",
    ),
    _Failure(
        _NO_HEADER, ArgumentError, "HUB_TOKEN_INVALID", "",
        "The hub's token (HF_TOKEN, or that of `hf auth login`) holds characters "
        "that no token has.",
        "Set HF_TOKEN again, or unset it: public repositories need none.",
    ),
    _Failure(
        (429,), OfflineError, "HUB_RATE_LIMITED", "",
        "The hub limits requests at the moment (HTTP 429 for {what}).",
        "Wait a few minutes and call again; logging in raises the limit.",
    ),
)  # fmt: skip


def translate(what: str, error: Exception) -> SaescopeError:
    """Our error for what a request for `what` failed with."""
    kind, status = type(error).__name__, status_of(error)
    for failure in _FAILURES:
        if kind in failure.kinds or status in failure.kinds:
            message = failure.message.format(what=what, status=status)
            return failure.error(
                message,
                code=failure.code,
                field=failure.field,
                got=what,
                hint=failure.hint,
                facts={"what": what},
            )
    if status:
        return OfflineError(
            f"The hub failed with HTTP {status} for {what}.",
            code="HUB_UNAVAILABLE",
            got=what,
            hint="Call again later, or set HF_ENDPOINT to a mirror.",
        )
    why = str(error) if isinstance(error, Unreached) else kind
    return not_cached(
        what,
        f"the hub cannot be reached ({why})",
        "Connect to the network (or set HF_ENDPOINT to a mirror) and call again; once "
        "cached it works offline.",
    )


def not_cached(what: str, why: str, hint: str) -> OfflineError:
    """What is not on this machine, and what is."""
    here = what_is_here()
    return OfflineError(
        f"{what} is not cached and {why}.",
        got=what,
        hint=f"{hint} Here without it: {', '.join(here) or 'no published SAE'}.",
        facts={"cached": False, "here": here},
    )


def what_is_here() -> list[str]:
    """Calls that load SAEs whose files are on this machine: the embedded one, and some of those
    that are published."""
    embedded = ["ss.load_sae()"] if is_ready() else []
    cached = [
        f'ss.load_sae(release="{entry.release}", sae_id="{entry.sae_id}")'
        for entry in on_this_machine()[:MOST_NAMED]
    ]
    return embedded + cached


def passes(error: Exception) -> bool:
    """Whether trying again may help."""
    status = status_of(error)
    return status in _TRANSIENT if status else type(error).__name__ not in _FINAL


def status_of(error: Exception) -> int:
    """The HTTP status that an error carries; 0 if there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def invalid_config_error() -> type[Exception]:
    """What a model's configuration raises whose fields have wrong types."""
    from huggingface_hub.errors import StrictDataclassError

    return StrictDataclassError
