"""A repository at one commit: its files by name, from the cache or from the hub."""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from saescope import network
from saescope.catalogue.cached import hub_cache, snapshots
from saescope.errors import OfflineError, SaescopeError
from saescope.fence import check_linked
from saescope.hub import download, transfer
from saescope.hub.failures import not_cached
from saescope.hub.location import checked_path
from saescope.progress import Say, silent

NOT_TO_BE_USED = "the network is not to be used"
_ONCE = (
    "saescope.catalogue.on_this_machine() lists what is cached here; "
    "this one needs the network once, then works offline."
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Fetch(NamedTuple):
    """How files come from the hub: a branch, tag or commit ("": main), whether only what is here
    already is taken, and who is told of downloads."""

    revision: str = ""
    offline: bool = False
    progress: Say | None = None


class Repository:
    """The files of a repository at one commit."""

    def __init__(
        self,
        repo_id: str,
        revision: str,
        commit: str,
        names: frozenset[str],
        say: Say,
        *,
        offline: bool,
    ) -> None:
        self.repo_id = repo_id
        self.commit = commit
        self.names = names
        """All files; offline: those in the cache."""
        self._revision, self._say, self._offline = revision, say, offline

    def open(self, name: str) -> BinaryIO:
        """The file: the cached one, else one of which only the parts that are read are fetched.

        Raises:
            NotFoundError, OfflineError: there is none, or it cannot be had now.
        """
        cached = self._cached(name)
        return (
            cached.open("rb")
            if cached
            else transfer.open_remote(self._url(name), f"{self.repo_id}/{name}")
        )

    def local(self, name: str) -> Path:
        """The file on this disk, downloaded if need be, its hash checked once.

        Raises:
            NotFoundError, OfflineError, FormatError, ResourceError: as `download.fetch`.
        """
        path = self._cached(name) or self._download(name)
        self._record_revision()
        return path

    def _cached(self, name: str) -> Path | None:
        path = snapshots(self.repo_id) / self.commit / checked_path(name)
        if path.is_file():
            check_linked(path, snapshots(self.repo_id).parent)
            return download.check_cached(
                path, f"{self.repo_id}/{name}", may_remove=not self._offline
            )
        if self._offline:
            raise not_cached(f"{self.repo_id}/{name}", NOT_TO_BE_USED, _ONCE)
        return None

    def _download(self, name: str) -> Path:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download

        what, url = f"{self.repo_id}/{name}", self._url(name)
        meta = transfer.patiently(
            what,
            lambda: get_hf_file_metadata(
                url, timeout=transfer.TIMEOUT_S, endpoint=transfer.endpoint()
            ),
        )
        if not meta.etag or meta.size is None:
            raise OfflineError(
                f"The server does not describe {what} (no etag or no size).",
                code="HUB_BAD_REPLY",
                hint="Set HF_ENDPOINT to another mirror.",
            )
        folder = snapshots(self.repo_id).parent
        download.fetch(
            url, what, into=folder / "blobs", etag=meta.etag, size=meta.size, say=self._say
        )
        self._say(f"{what}: {meta.size / 1e6:.1f} MB, verified")

        def link() -> str:  # the client finds the blob and only links it into its layout
            return hf_hub_download(
                self.repo_id,
                name,
                revision=self.commit,
                cache_dir=hub_cache(),
                endpoint=transfer.endpoint(),
                etag_timeout=transfer.TIMEOUT_S,
            )

        return Path(transfer.patiently(what, link))

    def _record_revision(self) -> None:
        """What the branch or tag means now, for the day without a network."""
        ref = _ref(self.repo_id, self._revision)
        if (
            self._offline
            or _COMMIT.fullmatch(self._revision)
            or (ref.is_file() and ref.read_text(encoding="ascii") == self.commit)
        ):
            return
        try:
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(self.commit, encoding="ascii")
        except OSError:
            return  # a cache that may only be read

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(
            self.repo_id, checked_path(name), revision=self.commit, endpoint=transfer.endpoint()
        )


def repository(
    repo_id: str,
    *,
    revision: str = "",
    offline: bool = False,
    progress: Say | None = None,
) -> Repository:
    """The repository at the commit that `revision` (a branch, tag or commit; "": main) means now;
    offline: at its last use.

    Raises:
        NotFoundError: no such repository or revision, or it is private or gated.
        OfflineError: it is not cached, and the network may not or cannot be used.
    """
    say = progress or silent
    checked_path(revision)
    if offline or offline_mode():
        return _from_cache(repo_id, revision, say)
    try:
        commit, names = transfer.patiently(
            f"repository {repo_id}" + (f" at {revision}" if revision else ""),
            lambda: _ask(repo_id, revision),
        )
    except SaescopeError as error:
        if not transfer.unreachable(error) or not _cached_commit(repo_id, revision):
            raise
        say(f"the hub cannot be reached: using what is cached of {repo_id}")
        return _from_cache(repo_id, revision, say)
    return Repository(repo_id, revision, commit, names, say, offline=False)


def hub_answers(*, again: bool = False) -> bool:
    """Whether the hub may be asked, and takes a connection; `again` asks anew where that is
    known."""
    return not offline_mode() and network.reachable(transfer.endpoint(), again=again)


def _ask(repo_id: str, revision: str) -> tuple[str, frozenset[str]]:
    from huggingface_hub import HfApi

    info = HfApi(endpoint=transfer.endpoint()).model_info(
        repo_id, revision=revision or None, timeout=transfer.TIMEOUT_S
    )
    if not _COMMIT.fullmatch(info.sha or ""):
        raise OfflineError(
            f"The server names no commit of {repo_id}.",
            code="HUB_BAD_REPLY",
            hint="Set HF_ENDPOINT to another mirror.",
        )
    return str(info.sha), frozenset(sibling.rfilename for sibling in info.siblings or [])


def offline_mode() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _from_cache(repo_id: str, revision: str, say: Say) -> Repository:
    commit = _cached_commit(repo_id, revision)
    if not commit:
        at = f" at {revision}" if revision else ""
        raise not_cached(f"{repo_id}{at}", NOT_TO_BE_USED, _ONCE)
    folder = snapshots(repo_id) / commit
    names = frozenset(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    return Repository(repo_id, revision, commit, names, say, offline=True)


def _cached_commit(repo_id: str, revision: str) -> str:
    """The commit that the revision last meant here; "" if none of its files is cached."""
    folder, ref = snapshots(repo_id), _ref(repo_id, revision)
    commits = (
        [commit.name for commit in folder.iterdir() if commit.is_dir()] if folder.is_dir() else []
    )
    commit = ref.read_text(encoding="ascii").strip() if ref.is_file() else revision
    if commit in commits:
        return commit
    return commits[0] if not revision and len(commits) == 1 else ""


def _ref(repo_id: str, revision: str) -> Path:
    return snapshots(repo_id).parent / "refs" / (revision or "main")
