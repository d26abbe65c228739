"""Texts as documents, a part of them held out: the packaged excerpt, local files and folders, data
sets on the hub."""

import hashlib
import lzma
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from saescope.activations.files import readable
from saescope.activations.hf_datasets import parse_name, read_hub, require_hub
from saescope.activations.readers import DOCUMENT_CHARS, READERS, cut
from saescope.errors import ArgumentError, ConfigError, NotFoundError
from saescope.fence import check_regular, real_path
from saescope.notices import tell
from saescope.prints import file_print, files_in, hash_of
from saescope.ranks import ALONE, Ranks

EMBEDDED = "embedded"
EMBEDDED_CORPUS = Path(__file__).parents[1] / "_embedded" / "corpus" / "corpus.txt.xz"
HELD_OUT = 0.02
"""Share of the documents that training never sees."""

MOST_BLANK = 10_000
"""Blank documents after which a dataset is called empty before its work is begun."""

Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A text in documents, always in the same order."""

    name: str
    fingerprint: str
    """A hash that changes when the text does."""
    read: Callable[[], Iterator[str]]
    ranks: Ranks = field(default=ALONE, kw_only=True)
    """Who reads it together."""

    def documents(self, *, start: int = 0) -> Iterator[str]:
        """All documents from number `start` on.

        Raises:
            ConfigError: DATASET_IN_PARTS: only what reads contexts knows whose they are.
        """
        if not self.ranks.alone:
            raise ConfigError(
                f"A part of {self.name!r} was given to what reads a text as a whole.",
                code="DATASET_IN_PARTS",
                field="dataset",
                hint="Give it the dataset without .part(ranks): only what reads contexts, as "
                "ss.store_activations, takes parts.",
            )
        return islice(self.read(), start, None)

    def part(self, ranks: Ranks) -> "Dataset":
        """What one of several processes reads: the contexts whose hash falls to it."""
        return replace(self, ranks=ranks)

    @property
    def whole(self) -> "Dataset":
        """The text without its parts."""
        return replace(self, ranks=ALONE)


def open_dataset(name: str, *, text_column: str = "", roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "embedded", a local file (.txt, .jsonl, .parquet, .csv, .tsv) or a folder of
    them, or "hf:owner/name[/config][:split]".

    Files that are links must lead into their folder or one of `roots`.

    Raises:
        NotFoundError: there is no such file, or no readable one in the folder.
        ArgumentError: the name or the kind of file is none that is read.
    """
    if name == EMBEDDED:
        return Dataset(name, hash_of(EMBEDDED_CORPUS.read_bytes()), _read_embedded)
    if name.startswith("hf:"):
        hub = parse_name(name)
        return Dataset(name, hash_of(*hub, text_column), lambda: read_hub(hub, text_column))
    path = Path(name).expanduser()
    files = _files(path, [real_path(root.expanduser()) for root in roots])
    base = path if path.is_dir() else path.parent
    print_of = [
        part for file in files for part in (file.relative_to(base).as_posix(), *_file_print(file))
    ]
    # a torn head or a column that is not there is said now, before a model is loaded for it
    next(_read_files(files[:1], text_column), None)
    return Dataset(name, hash_of(*print_of, text_column), lambda: _read_files(files, text_column))


def require_text(dataset: Dataset) -> None:
    """Raises NotFoundError where the documents are none or blank, which the first ones tell, and
    OfflineError where the hub that has them cannot be reached."""
    if dataset.name.startswith("hf:"):
        require_hub(parse_name(dataset.name))
    if dataset.name == EMBEDDED or dataset.name.startswith("hf:"):
        return
    if not any(
        document.replace("\0", "").strip() for document in islice(dataset.read(), MOST_BLANK)
    ):
        raise NotFoundError(
            f"The dataset {dataset.name!r} holds no text.",
            code="DATASET_EMPTY",
            field="dataset",
            got=dataset.name,
            hint='Use more text, or dataset="embedded".',
        )


def is_held_out(document: str, share: float = HELD_OUT) -> bool:
    """Whether a document is held out; its own hash decides, so a copy of it anywhere else falls
    into the same part."""
    digest = hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _read_embedded() -> Iterator[str]:
    with lzma.open(EMBEDDED_CORPUS, "rt", encoding="utf-8") as file:
        yield from cut(iter(lambda: file.read(2**20), ""), DOCUMENT_CHARS)


def _read_files(files: Sequence[Path], text_column: str) -> Iterator[str]:
    for file in files:
        yield from READERS[file.suffix.lower()](file, text_column)


def _files(path: Path, roots: Sequence[Path]) -> list[Path]:
    if not path.exists():
        raise NotFoundError(
            f"There is no file or folder {str(path)!r}.",
            code="FILE_MISSING",
            field="dataset",
            got=path,
            allowed=f'"embedded", a file ({", ".join(READERS)}), a folder of them, or '
            '"hf:owner/name[:split]"',
            hint='Check the path, or use dataset="embedded".',
        )
    check_regular(path, field="dataset", folders=True)
    if not path.is_dir():
        if path.suffix.lower() not in READERS:
            raise ArgumentError(
                f"{path.name!r} is no text that saescope reads.",
                code="UNKNOWN_FORMAT",
                field="dataset",
                got=path.name,
                allowed=", ".join(READERS),
                hint="Convert it to plain text, UTF-8.",
            )
        return [path]
    there = files_in(path)
    readable = [file for file in there if file.suffix.lower() in READERS]
    if not readable:
        raise NotFoundError(
            f"The folder {path.name!r} holds no text file.",
            code="DATASET_EMPTY",
            field="dataset",
            got=path,
            allowed=", ".join(READERS),
        )
    _check_inside(readable, [real_path(path), *roots])
    _tell_of_others(path, [file.name for file in there if file.suffix.lower() not in READERS])
    return readable


def _tell_of_others(folder: Path, names: Sequence[str]) -> None:
    """What a folder holds beside the texts that are read might be the text that was meant."""
    if names:
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        listed = ", ".join(map(repr, names[:3]))
        tell(f"The folder {folder.name!r} holds files of kinds that are not read: {listed}{rest}.")


def _check_inside(files: Sequence[Path], roots: Sequence[Path]) -> None:
    for file in files:
        if not any(real_path(file).is_relative_to(root) for root in roots):
            raise ArgumentError(
                f"{file.name!r} is a link that leads out of the dataset's folder.",
                code="PATH_NOT_ALLOWED",
                field="dataset",
                got=file,
                allowed=", ".join(map(str, roots)),
                hint="Copy the file into the folder.",
            )


def _file_print(file: Path) -> tuple[str, str]:
    with readable(file):
        return file_print(file)
