"""Which SAE a path means, and in which dialect it is: by the names of the files alone."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from saescope.errors import FormatError
from saescope.formats import DIALECTS, Dialect, llama_scope
from saescope.formats.source import FileSource, join, local_source
from saescope.names import nearest

CONFIGS = (".json", ".yaml")


def dialect_of(files: set[str]) -> Dialect | None:
    """The dialect that these names, of a folder's files or of one file, are in."""
    return next((dialect for dialect in DIALECTS if dialect.matches(files)), None)


def detect(source: FileSource) -> Dialect | None:
    """Recognise the dialect of the SAE's own files."""
    is_file = source.path in source.names
    return dialect_of({_base(source.path)} if is_file else children(source.names, source.path))


def local_sae(place: Path, known: dict[str, Any]) -> tuple[FileSource, Path]:
    """The SAE that a folder or a file on this disk belongs to, and its own folder or file."""
    if place.is_dir():
        root, source = place, belongs_to(local_source(place, known))
    else:
        root, source = place.parent, belongs_to(local_source(place, known))
        inside = join(place.absolute().parent.name, place.name)
        if (
            inside == llama_scope.FILE
        ):  # the one dialect whose weights lie deeper than its configuration
            root = place.absolute().parent.parent
            source = belongs_to(replace(local_source(root, known), path=inside))
    return source, root / source.path if source.path else root


def belongs_to(source: FileSource) -> FileSource:
    """The SAE that the path means: of a file that an SAE's folder holds, the folder; of a
    configuration, the weights that it is for; of a folder with a single file that is an SAE, that
    file.

    Raises:
        FormatError: AMBIGUOUS_SAE: several SAEs share the file, or lie in the folder.
    """
    path = source.path
    folder = path.rpartition("/")[0] if path in source.names else path
    files = {join(folder, name) for name in children(source.names, folder)}
    alone = sorted(file for file in files if _is_sae(file))
    if path not in source.names:
        weights = _weights(source, folder)
        _refuse_several(source, {*weights, *alone} if weights else ())
        whole = _holds(folder, files)
        return source if whole or not alone else replace(source, path=_only(alone, source))
    if path.endswith(CONFIGS):
        _refuse_several(source, _weights(source, folder, of=path))
    others = [file for file in alone if file != path and path in _wanted(file)]
    if others:
        return replace(source, path=_only(others, source))
    for place in (folder, folder.rpartition("/")[0]):
        dialect = dialect_of(children(source.names, place))
        if dialect and path in dialect.wanted(place):
            return replace(source, path=place)
    return source


def _wanted(file: str) -> tuple[str, ...]:
    """What a load of the SAE in this file reads."""
    dialect = dialect_of({_base(file)})
    return dialect.wanted(file) if dialect else ()


def _is_sae(file: str) -> bool:
    return not file.endswith(CONFIGS) and file in _wanted(file)


def _weights(source: FileSource, folder: str, *, of: str = "") -> set[str]:
    """Weights in a folder that its format alone tells from others, by their names; `of` a
    configuration, those that it is for."""
    patterns = (dialect.wanted(folder) for dialect in DIALECTS)
    inside = f"{folder}/" if folder else ""
    return {
        file
        for wanted in patterns
        for file in wanted
        if (not of or of in wanted)
        and file in source.names
        and file.startswith(inside)
        and not file.endswith(CONFIGS)
    }


def _refuse_several(source: FileSource, weights: Collection[str]) -> None:
    """Refuse a folder with two SAEs: the first format's would be taken in silence."""
    if len(weights) > 1:
        names = [_base(file) for file in sorted(weights)]
        raise FormatError(
            f"There are {len(names)} SAEs of different formats in one folder: "
            f"{', '.join(names[:5])}.",
            code="AMBIGUOUS_SAE",
            field="sae_id" if source.repo_id else "path",
            got=source.path,
            allowed=sorted(weights)[:10],
            hint="Put each into its own folder, with its configuration, and load that folder.",
        )


def _holds(folder: str, files: set[str]) -> bool:
    """Whether the folder is an SAE's own."""
    dialect = dialect_of({_base(file) for file in files})
    return dialect is not None and bool(files & {*dialect.wanted(folder)})


def _only(files: list[str], source: FileSource) -> str:
    if len(files) > 1:
        where = f"{_base(source.path)} belongs to" if source.path in source.names else "There are"
        raise FormatError(
            f"{where} {len(files)} SAEs, each a file: {', '.join(map(_base, files[:5]))}.",
            code="AMBIGUOUS_SAE",
            field="sae_id" if source.repo_id else "path",
            got=source.path,
            allowed=files[:10],
            hint=f"Name one of them: .../{_base(files[0])}.",
        )
    return files[0]


def children(names: frozenset[str], folder: str) -> set[str]:
    """List the files of a folder by name."""
    prefix = f"{folder}/" if folder else ""
    return {
        name[len(prefix) :]
        for name in names
        if name.startswith(prefix) and "/" not in name[len(prefix) :]
    }


def folders(names: frozenset[str]) -> list[str]:
    """List the folders and files that hold an SAE."""
    files: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        files.setdefault(folder, set()).add(file)
    whole = sorted(folder for folder, inside in files.items() if dialect_of(inside))
    return whole or sorted(name for name in names if dialect_of({_base(name)}))


def files_in(names: frozenset[str], folder: str) -> list[str]:
    """List the files right in a folder that are an SAE each."""
    return sorted(name for each in children(names, folder) if _is_sae(name := join(folder, each)))


def closest(source: FileSource) -> list[str]:
    """The SAEs of a repository whose names are nearest to the path."""
    return nearest(source.path, folders(source.names), 5)


def _base(path: str) -> str:
    return path.rpartition("/")[2]
