"""Writing a repository: one commit on top of the one that was looked at, or nothing. The token
comes from the environment."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from saescope.cancel import stop_if_cancelled
from saescope.errors import ArgumentError, NotFoundError, OfflineError
from saescope.hub import transfer
from saescope.hub.failures import status_of, translate
from saescope.hub.location import checked_path

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,47}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class Destination(NamedTuple):
    """A repository as it is before anything is written."""

    repo_id: str
    exists: bool
    """Whether the repository exists, as far as the token's account may see."""
    commit: str
    private: bool
    names: frozenset[str]
    """The names of its files."""

    @property
    def url(self) -> str:
        return f"{transfer.endpoint()}/{self.repo_id}"


def check_repo_id(repo_id: str) -> str:
    """Raises ArgumentError for anything but `owner/name`."""
    if _REPO.fullmatch(repo_id) and not re.search(r"\.\.|--|[.-]$|\.git$", repo_id):
        return repo_id
    raise ArgumentError(
        f"{repo_id!r} is no repository name.",
        code="INVALID_REPO_ID",
        field="repo_id",
        got=repo_id,
        allowed="owner/name",
        hint="Name a Hugging Face repository of your own as owner/name, or give path to "
        "write a folder.",
    )


def has_token() -> bool:
    """Whether HF_TOKEN or `hf auth login` gives a token."""
    from huggingface_hub import get_token

    return bool(get_token())


def look(repo_id: str) -> Destination:
    """Look up what is there now.

    Raises:
        OfflineError: the hub cannot be asked.
    """
    from huggingface_hub import HfApi

    def ask() -> Destination:
        info = HfApi(endpoint=transfer.endpoint()).model_info(repo_id, timeout=transfer.TIMEOUT_S)
        names = frozenset(sibling.rfilename for sibling in info.siblings or [])
        return Destination(repo_id, True, str(info.sha or ""), bool(info.private), names)

    try:
        return transfer.patiently(f"repository {repo_id}", ask)
    except NotFoundError as error:
        if error.code != "REPO_NOT_FOUND":
            raise
        return Destination(repo_id, False, "", True, frozenset())


def push(target: Destination, files: Mapping[str, Path], *, private: bool, message: str) -> str:
    """Commit `files`, by their names in the repository, which is created if need be; returns the
    commit.

    Raises:
        ArgumentError: there is no token, or it may not write there.
        OfflineError: the hub stopped answering, or somebody else has written there meanwhile;
            nothing was published.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not has_token():
        raise ArgumentError(
            "There is no Hugging Face token.",
            code="HUB_TOKEN_MISSING",
            hint="Set HF_TOKEN to one that may write, or run `hf auth login`.",
        )
    api = HfApi(endpoint=transfer.endpoint())
    operations = [
        CommitOperationAdd(checked_path(name), file) for name, file in sorted(files.items())
    ]
    stop_if_cancelled()
    try:
        if not target.exists:
            api.create_repo(target.repo_id, private=private, exist_ok=False)
            target = look(target.repo_id)
        stop_if_cancelled()
        made = api.create_commit(
            target.repo_id, operations, commit_message=message, parent_commit=target.commit or None
        )
    except (*transfer.errors(), ValueError, RuntimeError) as error:
        # RuntimeError: what the client wraps around a failed upload of a large file; ValueError: a
        # malformed answer.
        _refuse(target.repo_id, error)
    return str(made.oid)


def _refuse(repo_id: str, error: Exception) -> NoReturn:
    cause = (
        error.__cause__
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception)
        else error
    )
    status = status_of(cause)
    if status in (401, 403):
        raise ArgumentError(
            f"The token may not write to {repo_id} (HTTP {status}).",
            code="HUB_ACCESS_DENIED",
            field="repo_id",
            got=repo_id,
            hint="Use a token with write access to this owner (`hf auth whoami`), or "
            "another repo_id.",
        ) from None
    if status in (409, 412):
        raise OfflineError(
            f"{repo_id} was changed by somebody else meanwhile; nothing was published.",
            code="REPO_CHANGED",
            got=repo_id,
            hint="Look at it (dry_run=True) and call again.",
        ) from None
    if isinstance(cause, transfer.errors()):
        raise translate(f"repository {repo_id}", cause) from None
    raise OfflineError(
        f"The upload to {repo_id} failed ({type(cause).__name__}); nothing was published.",
        code="HUB_UPLOAD_FAILED",
        got=repo_id,
        hint="Call again; if it fails again, publish to a folder (path=...) and upload that "
        "with `hf upload`.",
    ) from None
