"""The texts of a call, given in it or read from the files that it names."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from saescope.errors import ArgumentError, ResourceError
from saescope_mcp.schemas.common import ContrastFile, FilesRequest, TextsRequest
from saescope_mcp.schemas.features import FindFeatures
from saescope_mcp.settings import Settings
from saescope_mcp.state.app_state import AppState
from saescope_mcp.state.entries import LoadedSAE
from saescope_mcp.state.sources import readable

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

    @property
    def all(self) -> list[str]:
        return [*self.texts, *self.against]


async def given_texts(state: AppState, request: TextsRequest | FindFeatures) -> Given:
    """Raises: ArgumentError, NotFoundError, FormatError: a file may not be read, or holds no such
    texts."""
    single = [request.text] if isinstance(request, TextsRequest) and request.text else []
    texts, against, files_in_words = request.texts or single, list[str](), list[str]()
    if request.texts_file:
        texts = await _read(state, request, "texts_file")
        files_in_words.append(f"{len(texts):,} texts of {Path(request.texts_file).name}")
    if isinstance(request, ContrastFile):
        against = request.against
        if request.against_file:
            against = await _read(state, request, "against_file", column=request.against_column)
            files_in_words.append(f"{len(against):,} of {Path(request.against_file).name}")
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
    return Given(texts or [""], against, bool(files_in_words), about)


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


async def _read(
    state: AppState, request: FilesRequest, field: str, *, column: str = ""
) -> list[str]:
    path = getattr(request, field)
    lines = field == "against_file" and path.lower().endswith(".txt")  # it has no columns
    column = column or ("" if lines else request.texts_column)
    return await state.loaders.run(partial(_texts, path, column, state.settings, field))


def _texts(path: str, column: str, settings: Settings, field: str) -> list[str]:
    from saescope.activations import read_texts

    place, most_chars = Path(readable(path, settings, field)), settings.max_prompt_chars
    most = settings.max_file_texts
    return read_texts(place, column=column, most=most, most_chars=most_chars, field=field)
