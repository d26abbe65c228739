"""Finding published SAEs: by words, model, layer, site and architecture, a page at a time."""

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from saescope.catalogue.cached import files_of, is_cached
from saescope.catalogue.registry import Entry, nearest_releases, releases
from saescope.catalogue.sites import weights_file
from saescope.catalogue.spelling import canonical_model, squeezed
from saescope.errors import ArgumentError
from saescope.names import nearest, split_hook
from saescope.records.catalogue import PublishedSAE

MAX_LIMIT = 1000
_SITE_ALIASES = {
    "res": "resid",
    "att": "attn",
    "residual": "resid",
    "attention": "attn",
    "z": "attn.z",
    "embedding": "embed",
}
_PAIR = re.compile(r"(?<!\w)(layer|width|l0|d_sae)\s*[-_:= ]\s*(\d+[km]?)(?!\w)", re.IGNORECASE)
_SHORTEST = 3
"""A word without its hyphens is looked for among names without theirs if it has so many
characters: "2b" would be found everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueRow(PublishedSAE):
    """One published SAE as a list shows it."""

    file: str
    """What holds its weights, relative to its repository's root."""


class Page(NamedTuple):
    """A part of what was found."""

    saes: list[CatalogueRow]
    total: int
    nearest: list[str]
    """If nothing was found: names of releases or models like those that were asked for."""


class _Searchable(NamedTuple):
    entry: Entry
    text: str
    squeezed: str
    """Its names without what people write differently, apart from each other."""
    model: str
    site: str


class _Word(NamedTuple):
    """A value as it was said, without what people write differently; "" where that says nothing."""

    text: str
    bare: str


def find_saes(
    *,
    query: str = "",
    model: str = "",
    layer: int | None = None,
    site: str = "",
    architecture: str = "",
    limit: int = 10,
    offset: int = 0,
) -> Page:
    """Published SAEs that fit all that is given.

    query: words that must all occur in release, id, model, site or architecture, and pairs such as
    "layer 12", "width 16k", "l0 71". model: a model's name, in any of its usual spellings; if no
    model has that name, every model whose name contains it. site: "resid_post", "mlp_out", "attn.z"
    ..., a part of it, or a whole hook name. Hyphens and blanks do not matter.

    Raises:
        ArgumentError: limit or offset out of range.
    """
    if not 1 <= limit <= MAX_LIMIT or offset < 0:
        raise ArgumentError(
            f"limit must be in [1, {MAX_LIMIT}] and offset not negative, got {limit} and {offset}.",
            code="OUT_OF_RANGE",
            field="limit" if offset >= 0 else "offset",
            got=limit if offset >= 0 else offset,
            allowed=f"1..{MAX_LIMIT}",
        )
    at, named_site = split_hook(site) if site.startswith("blocks.") else (layer, site)
    models, site_word = _models(model), _site(named_site)
    kind = squeezed(architecture)
    entries = [
        row.entry
        for row in _with(_words(query))
        if (not model or row.model in models)
        and (layer is None or row.entry.layer == layer)
        and (at is None or row.entry.layer == at)
        and (
            not site_word
            or site_word == row.site
            or (site_word != "attn.z" and site_word in row.site)
        )
        and (not kind or kind in squeezed(row.entry.architecture))
    ]
    if query:  # a release of exactly that name first
        name = squeezed(query)
        entries.sort(key=lambda entry: squeezed(entry.release) != name)
    rows = [_row(entry) for entry in entries[offset : offset + limit]]
    return Page(rows, len(entries), [] if entries else _nearest(query, model))


def on_this_machine() -> list[Entry]:
    """Every published SAE whose weights are in the hub's cache; one of several names is given once,
    under the first."""
    entries = [row.entry for row in _index()]
    files = {
        repo_id: files_of(repo_id) for repo_id in dict.fromkeys(entry.repo_id for entry in entries)
    }
    cached = (
        entry
        for entry in entries
        if files[entry.repo_id] and weights_file(entry.dialect, entry.path) in files[entry.repo_id]
    )
    return [*{(entry.repo_id, entry.path): entry for entry in reversed([*cached])}.values()][::-1]


@cache
def _index() -> list[_Searchable]:
    rows: list[_Searchable] = []
    for saes in releases().values():
        for entry in saes.values():
            _, site = split_hook(entry.hook_name)
            # Pairs stand between blanks, so that "layer_1" is not found in "layer_12".
            pairs = (
                f" layer_{entry.layer} d_sae_{entry.d_sae} width_{entry.d_sae} "
                f"width_{_short(entry.d_sae)} l0_{entry.l0 or 0:g} "
            )
            names = (
                entry.release,
                entry.sae_id,
                entry.repo_id,
                entry.model,
                entry.hook_name,
                entry.architecture,
            )
            rows.append(
                _Searchable(
                    entry,
                    " ".join(names).lower() + pairs,
                    "|".join(map(squeezed, names)),
                    canonical_model(entry.model),
                    site,
                )
            )
    return rows


def _short(width: int | None) -> str:
    """16384 -> "16k", 65536 -> "65k", as the releases call them."""
    if width is None:
        return ""
    return f"{width // 1000}k" if width < 1_000_000 else f"{width // 1_000_000}m"


def _with(words: list[_Word]) -> list[_Searchable]:
    """The SAEs in whose names all of these words occur."""
    rows = _index()
    for text, bare in words:
        rows = [row for row in rows if text in row.text or (bare and bare in row.squeezed)]
    return rows


def _models(model: str) -> set[str]:
    known = _model_names()
    word = squeezed(canonical_model(model))
    if word in known:
        return {known[word]}
    return {name for bare, name in known.items() if word and word in bare}


@cache
def _model_names() -> dict[str, str]:
    """Each model, by its name without what people write differently."""
    return {squeezed(model): model for model in {row.model for row in _index()}}


def _site(site: str) -> str:
    word = ".".join(
        re.sub(r"[- ]+", "_", part.strip()).removeprefix("hook_")
        for part in site.strip().lower().split(".")
    )
    return _SITE_ALIASES.get(word, word)


def _words(query: str) -> list[_Word]:
    pairs = [f" {key.lower()}_{value.lower()} " for key, value in _PAIR.findall(query)]
    words = _PAIR.sub(" ", query).lower().split()
    return [_Word(pair, "") for pair in pairs] + [
        _Word(word, bare if len(bare := squeezed(word)) >= _SHORTEST else "") for word in words
    ]


def _nearest(query: str, model: str) -> list[str]:
    if model and not _models(model):
        names = {row.model: row.entry.model for row in _index()}
        return [names[name] for name in nearest(canonical_model(model), names)]
    return nearest_releases(query.strip()) if query else []


def _row(entry: Entry) -> CatalogueRow:
    file = weights_file(entry.dialect, entry.path)
    return CatalogueRow(
        release=entry.release,
        sae_id=entry.sae_id,
        model=entry.model,
        hook_name=entry.hook_name or None,
        architecture=entry.architecture or None,
        d_sae=entry.d_sae,
        l0=entry.l0,
        explained_variance=entry.explained_variance,
        neuronpedia_id=entry.neuronpedia_id or None,
        cached=is_cached(entry.repo_id, file),
        file=file,
    )
