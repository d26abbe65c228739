"""Every release and SAE of `data.json.gz` (written by scripts/build_catalogue.py), looked up by
name."""

import gzip
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from saescope.catalogue import sites
from saescope.errors import NotFoundError
from saescope.names import nearest


class Entry(NamedTuple):
    """A published SAE: where its files are, and what is known of it without them."""

    release: str
    sae_id: str
    repo_id: str
    path: str
    """The folder or file of the SAE in the repository."""
    dialect: str
    """Name of the on-disk dialect: `NAME` of a module in saescope.formats."""
    model: str
    hook_name: str
    """The site that it reads; empty if only its own files say."""
    layer: int | None
    d_sae: int | None
    architecture: str
    """The name that SAELens would give it; empty if only its own files say."""
    l0: float | None
    explained_variance: float | None
    neuronpedia_id: str
    known: Mapping[str, Any]
    """What a loader needs and the files lack: model_name, neuronpedia_id, norm_scaling_factor, l0,
    and the release's overrides."""


@cache
def releases() -> dict[str, dict[str, Entry]]:
    """Each release with its SAEs by id, in the registry's order."""
    document = json.loads(
        gzip.decompress(files("saescope.catalogue").joinpath("data.json.gz").read_bytes())
    )
    return {
        release["name"]: {row[0]: _entry(release, row) for row in release["saes"]}
        for release in document["releases"]
    }


def get(release: str, sae_id: str) -> Entry:
    """Return the published SAE of that release and id.

    Raises:
        NotFoundError: there is no such release, or no such SAE in it; the nearest names are in the
            message.
    """
    saes = releases().get(release)
    if saes is None:
        close = nearest_releases(release)
        query = (close or [release])[0]
        raise NotFoundError(
            f"There is no release {release!r}. Nearest: {', '.join(close) or 'none'}.",
            code="RELEASE_NOT_FOUND",
            field="release",
            got=release,
            allowed=[*close, "owner/repository"],
            hint=f'Call ss.find_saes(query="{query}"), or name a Hugging Face '
            "repository as owner/name.",
            facts={"query": query},
        )
    if sae_id not in saes:
        close = nearest(sae_id, saes, 5) or [*saes][:5]
        raise NotFoundError(
            f"Release {release!r} has no SAE {sae_id!r}. Nearest: {', '.join(close)}.",
            code="SAE_NOT_FOUND",
            field="sae_id",
            got=sae_id,
            allowed=close,
            hint=f'Call ss.load_sae(release="{release}", sae_id="{close[0]}").',
        )
    return saes[sae_id]


def nearest_releases(release: str, n: int = 3) -> list[str]:
    """The releases most like `release`; those that it is the beginning of come first."""
    begins = [name for name in releases() if release and name.startswith(release.lower())]
    return list(dict.fromkeys([*sorted(begins, key=len), *nearest(release, releases(), n)]))[:n]


def _entry(release: Mapping[str, Any], row: list[Any]) -> Entry:
    sae_id, path, l0, explained_variance, neuronpedia_id, factor = row + [None] * (6 - len(row))
    path = path or sae_id
    place = sites.PublishedName(
        release["dialect"], release["name"], release["repo_id"], sae_id, path
    )
    hook_name = release["known"].get("hook_name") or sites.hook_name(place)
    # SAELens's own files name their model, often more exactly.
    known = (
        {} if release["dialect"] == "sae_lens" else {"model_name": release["model"]}
    ) | release["known"]
    known |= {
        key: value
        for key, value in (
            ("l0", l0),
            ("neuronpedia_id", neuronpedia_id),
            ("norm_scaling_factor", factor),
        )
        if value is not None
    }
    return Entry(
        release=release["name"],
        sae_id=sae_id,
        repo_id=release["repo_id"],
        path=path,
        dialect=release["dialect"],
        model=release["model"],
        hook_name=hook_name,
        layer=sites.layer(place),
        d_sae=sites.d_sae(place),
        architecture=sites.architecture(place),
        l0=l0,
        explained_variance=explained_variance,
        neuronpedia_id=neuronpedia_id or "",
        known=known,
    )
