"""Turns the names that a person gives into a place on the hub. No network."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from saescope import catalogue
from saescope.catalogue import Entry
from saescope.errors import ArgumentError, NotFoundError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class Location(NamedTuple):
    """The place of an SAE on the hub, before its repository has been asked."""

    repo_id: str
    path: str
    """Folder or file in the repository; "" is its root."""
    dialect: str
    """Name of the on-disk dialect; "" if the files have to tell."""
    known: Mapping[str, Any]
    """What the catalogue knows and the files may not say."""


def resolve(release: str, sae_id: str) -> Location:
    """The SAE of a release in the catalogue, or the folder or file `sae_id` of the repository
    `owner/name`.

    Raises:
        ArgumentError: a release of several SAEs without a sae_id, or a path that leaves the
            repository.
        NotFoundError: no such release or SAE, or no valid repository name.
    """
    if "/" not in release:
        if not sae_id and release in catalogue.releases():
            raise ArgumentError(
                f"Release {release!r} has {len(catalogue.releases()[release])} SAEs: a "
                "sae_id is needed.",
                code="MISSING_ARGUMENT",
                field="sae_id",
                hint=f'Call ss.load_sae(release="{release}", '
                f'sae_id="{next(iter(catalogue.releases()[release]))}").',
            )
        return _located(catalogue.get(release, sae_id))
    if not _REPO.fullmatch(release) or ".." in release or "--" in release:
        raise NotFoundError(
            f"{release!r} is no repository name.",
            code="INVALID_REPO_ID",
            field="release",
            got=release,
            allowed="owner/name",
            hint="Name a release, or a Hugging Face repository as owner/name.",
        )
    path = checked_path(sae_id.strip("/"))
    entries = _by_place().get((release, path))
    return _located(entries[0]) if entries else Location(release, path, "", {})


def first_name(release: str, sae_id: str) -> tuple[str, str]:
    """One name for an SAE that has several: the catalogue's first for its place, where the
    catalogue knows it.

    ("gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical") and
    ("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71") are both
    ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71").

    Raises:
        ArgumentError, NotFoundError: as `resolve`.
    """
    place = resolve(release, sae_id)
    entries = _by_place().get((place.repo_id, place.path))
    return (entries[0].release, entries[0].sae_id) if entries else (release, sae_id)


def checked_path(path: str) -> str:
    """`path`, if it stays inside the repository, also where ":" names a drive."""
    if re.search(r"[\x00-\x1f\\]|^/|^[A-Za-z]:", path) or {"..", "."} & set(path.split("/")):
        raise ArgumentError(
            f"{path!r} is no folder or file of a repository.",
            code="INVALID_PATH",
            field="sae_id",
            got=path,
            hint='Give a path inside the repository, such as "layer_5".',
        )
    return path


def _located(entry: Entry) -> Location:
    known: dict[str, Any] = {}
    for other in (
        *_by_place()[entry.repo_id, entry.path],
        entry,
    ):  # under one name the catalogue has the l0, under another the page
        known |= other.known
    return Location(entry.repo_id, entry.path, entry.dialect, known)


@cache
def _by_place() -> dict[tuple[str, str], list[Entry]]:
    """The catalogue by repository and path: an SAE named by its place gets what the catalogue knows
    of it."""
    places: dict[tuple[str, str], list[Entry]] = {}
    for saes in catalogue.releases().values():
        for entry in saes.values():
            places.setdefault((entry.repo_id, entry.path), []).append(entry)
    return places
