"""Releases on the Hugging Face hub: which repository and folder, and its files on this machine. No torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from saescope.cancel import checkpoint
from saescope.errors import NotFoundError, OfflineError
from saescope.names import nearest


class Release(NamedTuple):
    """A published set of SAEs: its repository, each SAE with its Neuronpedia id, and metadata that its `cfg.json` files lack."""

    repo_id: str
    saes: Mapping[str, str]
    metadata: Mapping[str, Any]


_GPT2_SMALL_RES_JB = Release(
    "jbloom/GPT2-Small-SAEs-Reformatted",
    {f"blocks.{i}.hook_resid_pre": f"gpt2-small/{i}-res-jb" for i in range(12)} | {"blocks.11.hook_resid_post": "gpt2-small/12-res-jb"},
    {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
)
RELEASES = {"gpt2-small-res-jb": _GPT2_SMALL_RES_JB}


def resolve(release: str, sae_id: str) -> Release:
    """The release of that name, or the repository `owner/name` taken as one.

    Raises:
        NotFoundError: neither, or it has no such SAE.
    """
    if release in RELEASES:
        found = RELEASES[release]
        if sae_id not in found.saes:
            raise NotFoundError(
                f"Release {release!r} has no SAE {sae_id!r}.",
                code="SAE_NOT_FOUND",
                field="sae_id",
                got=sae_id,
                allowed=nearest(sae_id, found.saes, 5),
                hint=f'Call load_sae(release="{release}", sae_id="{(nearest(sae_id, found.saes, 1) or [*found.saes])[0]}").',
            )
        return found
    if release.count("/") == 1:
        return Release(release, {sae_id: ""}, {})
    raise NotFoundError(
        f"There is no release {release!r}.",
        code="RELEASE_NOT_FOUND",
        field="release",
        got=release,
        allowed=[*RELEASES, "owner/repository"],
        hint=f"Nearest: {', '.join(nearest(release, RELEASES)) or 'none'}. Name a release, or a Hugging Face repository as owner/name.",
    )


def download(
    repo_id: str,
    folder: str,
    files: tuple[str, ...],
    *,
    revision: str = "",
    offline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """The local folder that holds `files` of `folder` in `repo_id`, fetched if need be.

    Raises:
        NotFoundError: the repository, revision or file does not exist.
        OfflineError: it is not cached and the network may not or cannot be used.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    local = Path()
    for name in files:
        checkpoint()
        if progress:
            progress(f"{repo_id}: {folder}/{name}")
        try:
            path = hf_hub_download(repo_id, f"{folder}/{name}".lstrip("/"), revision=revision or None, local_files_only=offline)
        except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError, hub.HFValidationError) as error:
            raise _missing(repo_id, f"{folder}/{name}", revision, error) from None
        except (hub.LocalEntryNotFoundError, hub.HfHubHTTPError, OSError) as error:
            raise OfflineError(
                f"{repo_id}/{folder}/{name} is not cached and the hub cannot be reached ({type(error).__name__}).",
                got=repo_id,
                hint="Connect to the network (or set HF_ENDPOINT to a mirror) and call again; once cached it works offline.",
            ) from None
        local = Path(path).parent
    return local


def invalid_config_error() -> type[Exception]:
    """What a model's configuration raises whose fields have wrong types."""
    from huggingface_hub.errors import StrictDataclassError

    return StrictDataclassError


def _missing(repo_id: str, name: str, revision: str, error: Exception) -> NotFoundError:
    kind = type(error).__name__
    if kind == "RevisionNotFoundError":
        return NotFoundError(f"{repo_id} has no revision {revision!r}.", code="REVISION_NOT_FOUND", field="revision", got=revision)
    if kind == "HFValidationError":
        return NotFoundError(
            f"{repo_id!r} is no repository name.", code="INVALID_REPO_ID", field="release", got=repo_id, allowed="owner/name"
        )
    what = f"file {name!r} in {repo_id}" if kind == "RemoteEntryNotFoundError" else f"repository {repo_id!r} (or it is private or gated)"
    return NotFoundError(
        f"The hub has no {what}.",
        code="SAE_NOT_FOUND",
        field="release",
        got=repo_id,
        hint="Check the name; for a private or gated repository set HF_TOKEN.",
    )
