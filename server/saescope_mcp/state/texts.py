"""The texts of a call, given in it or read from the files that it names."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from saescope.errors import ArgumentError, NotFoundError, ResourceError
from saescope.prints import content_hash
from saescope_mcp.schemas.common import ContrastFile, FilesRequest, TextsRequest
from saescope_mcp.schemas.features import FindFeatures
from saescope_mcp.settings import Settings
from saescope_mcp.state.app_state import AppState
from saescope_mcp.state.entries import LoadedSAE
from saescope_mcp.state.sources import readable

if TYPE_CHECKING:
    from saescope.activations import ListedText

SCORE_BYTES = 48
"""Memory that a contrast takes per text and feature: scores, those of equal length, ranks, and what
a probe makes of them."""


class Given(NamedTuple):
    """Texts, those that they are contrasted with, and whether any came from a file."""

    texts: list[str]
    against: list[str]
    from_file: bool
    about: str
    """How many came from where; empty if all stood in the call."""
    groups: list[str]
    """The document of each text, those of `texts` first, where a column of the files names it."""
    files: dict[str, str]
    """The hash of each file."""

    @property
    def all(self) -> list[str]:
        return [*self.texts, *self.against]


async def given_texts(state: AppState, request: TextsRequest | FindFeatures) -> Given:
    """Raises: ArgumentError, NotFoundError, FormatError: a file may not be read, or holds no such
    texts."""
    single = [request.text] if isinstance(request, TextsRequest) and request.text else []
    given, others = _Side([*(request.texts or single)]), _Side([])
    if isinstance(request, FindFeatures) and request.label_column:
        given, others = _by_label(request, await _read(state, request, "texts_file"))
    elif request.texts_file:
        given = _Side.of(request, "texts_file", await _read(state, request, "texts_file"))
    if isinstance(request, ContrastFile) and request.against:
        others = _Side([*request.against])
    elif isinstance(request, ContrastFile) and request.against_file:
        others = _Side.of(request, "against_file", await _read(state, request, "against_file"))
    texts, against = given.texts, others.texts
    files_in_words = [side.about for side in (given, others) if side.about]
    if files_in_words and against and texts == against:
        raise ArgumentError(
            "The texts and those that they are contrasted with are the same: nothing "
            "sets them apart.",
            code="CONFLICTING_ARGUMENTS",
            field="against_column",
            got=Path(request.texts_file).name,
            allowed="another column of the file, or another file",
            hint="Name the column of the other texts: against_column.",
        )
    about = f"{' against '.join(files_in_words)}: " if files_in_words else ""
    groups = [*given.groups, *others.groups]
    places = [readable(getattr(request, name), state.settings, name) for name in request.files]
    files = await state.loaders.run(partial(_hashes, places)) if places else {}
    return Given(texts or [""], against, bool(files_in_words), about, groups, files)


async def hash_of(state: AppState, dataset: str) -> dict[str, str]:
    """The hash of a data set of this machine by its place; nothing for others."""
    if dataset == "embedded" or dataset.startswith("hf:"):
        return {}
    return await state.loaders.run(partial(_hashes, [dataset]))


class _Side(NamedTuple):
    """Texts of one side, how many came from where, and the document of each."""

    texts: list[str]
    about: str = ""
    groups: Sequence[str] = ()

    @classmethod
    def of(cls, request: FilesRequest, field: str, rows: "Sequence[ListedText]") -> "_Side":
        """From the rows of a file, which end with the group where a column is named for it."""
        texts, name = [row.text for row in rows], Path(getattr(request, field)).name
        of = f"{len(texts):,} texts of" if field == "texts_file" else f"{len(texts):,} of"
        return cls(texts, f"{of} {name}", _groups(request, rows))


def _hashes(places: Sequence[str]) -> dict[str, str]:
    return {place: content_hash(Path(place)) for place in places}


def _groups(request: FilesRequest, rows: "Sequence[ListedText]") -> list[str]:
    named = isinstance(request, FindFeatures) and bool(request.group_column)
    if not named:
        return []
    # a row without a group is a document of its own
    return [
        str(row.beside[-1]) if row.beside[-1] not in (None, "") else f"{row.text}\0{i}"
        for i, row in enumerate(rows)
    ]


def _by_label(request: FindFeatures, rows: "Sequence[ListedText]") -> tuple[_Side, _Side]:
    """The two sides of one file, those of the named value first."""
    from saescope.activations import two_sides

    name, sides = Path(request.texts_file).name, two_sides(rows, request.label_column)
    column = request.label_column.partition("=")[0]
    rest = "otherwise"
    if len(sides.other_labels) == 1:
        (other,) = sides.other_labels
        rest = f"with {column} = {other}" if other else f"with nothing in {column}"
    n = sides.n_without
    left_out = f" ({n:,} without a label left out)" if n else ""
    about = (
        f"{len(sides.rows):,} texts of {name} with {column} = {sides.label}",
        f"{len(sides.others):,} {rest}{left_out}",
    )
    one, other = (
        _Side([row.text for row in part], words, _groups(request, part))
        for part, words in zip((sides.rows, sides.others), about, strict=True)
    )
    return one, other


def check_contrast_room(state: AppState, loaded: LoadedSAE, n_texts: int) -> None:
    """Raises: ResourceError: the scores of so many texts do not fit."""
    free, each = state.room().free, SCORE_BYTES * loaded.sae.cfg.d_sae
    if n_texts * each > free:
        raise ResourceError(
            f"A contrast of {n_texts:,} texts over {loaded.sae.cfg.d_sae:,} features "
            f"needs {n_texts * each / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free.",
            field="texts_file",
            got=n_texts,
            allowed=f"{free // each} texts",
            hint="Give fewer texts, or unload what is not needed.",
        )


async def _read(state: AppState, request: FilesRequest, field: str) -> "list[ListedText]":
    path = getattr(request, field)
    lines = field == "against_file" and path.lower().endswith(".txt")  # it has no columns
    own = request.against_column if isinstance(request, ContrastFile) else ""
    column = (own if field == "against_file" else "") or ("" if lines else request.texts_column)
    return await state.loaders.run(partial(_rows, request, column, state.settings, field))


def _rows(request: FilesRequest, column: str, settings: Settings, field: str) -> "list[ListedText]":
    from saescope.activations import read_rows

    named = ("label_column", "group_column")
    more = {each: str(getattr(request, each)) for each in named if getattr(request, each, "")}
    more = {each: name.partition("=")[0] for each, name in more.items()}
    place = Path(readable(getattr(request, field), settings, field))
    try:
        return read_rows(
            place,
            column=column,
            more=[*more.values()],
            most=settings.max_file_texts,
            most_chars=settings.max_prompt_chars,
            field=field,
        )
    except NotFoundError as error:
        asked = next((each for each, name in more.items() if name == error.got), None)
        if asked is None or error.code != "COLUMN_NOT_FOUND":
            raise
        raise NotFoundError(
            error.message, code=error.code, field=asked, got=error.got, allowed=error.allowed
        ) from error
