"""The files of an SAE: a folder on this disk or a repository on the hub, read the same way."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from saescope.errors import ConfigError, FormatError, NotFoundError
from saescope.fence import check_inside, check_regular, is_inside, open_file, present
from saescope.formats.agreement import agree, contradiction, same
from saescope.json_text import parse

MAX_TEXT_BYTES = 1 << 20
RUN_CONFIGS = ("../config.json", "../../config.json")
_MAX_NAMES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """The files of an SAE, and what is known of it beside their content. Names are relative to the
    repository root."""

    opener: Callable[[str], BinaryIO]
    """Name -> open file; of a repository on the hub only the ranges that are read are fetched."""
    local: Callable[[str], Path]
    """Name -> path on this disk, downloaded and verified if need be."""
    names: frozenset[str] = frozenset()
    """Known file names; empty if the repository could not be listed."""
    path: str = ""
    """The SAE inside the root: a sub-folder, a file, or "" (the root itself)."""
    repo_id: str = ""
    """The repository on the hub; empty for a local folder."""
    known: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a catalogue or the user says and the files may not: model_name, hook_name,
    neuronpedia_id, norm_scaling_factor, l0 ..."""

    def open(self, name: str) -> BinaryIO:
        """Open the file, which the caller closes.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self.opener(name)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name; looked up only where the names are not known."""
        if self.names:
            return name in self.names
        try:
            self.opener(name).close()
        except NotFoundError:
            return False
        return True

    def at(self, name: str) -> str:
        """The file of that name in the SAE's own folder (if `path` is a file: in the folder that
        holds it)."""
        return join(self.folder, name)

    @property
    def folder(self) -> str:
        """The SAE's own folder, also if `path` is a file."""
        return self.path.rpartition("/")[0] if self.path in self.names else self.path

    def json(self, name: str) -> dict[str, Any]:
        """Read the object in a JSON file of at most 1 MiB.

        Raises:
            NotFoundError, ConfigError, FormatError: it is not there, no JSON object, or
                suspiciously large.
        """
        text = self.text(name)
        try:
            return _object(name, parse(text, pairs=_unambiguous(name)), "JSON")
        except ValueError as error:
            raise ConfigError(f"{_base(name)} {error}.", hint="Get the file again.") from error

    def yaml(self, name: str) -> dict[str, Any]:
        """The mapping in a YAML file of at most 1 MiB; raises as `json` does."""
        text = self.text(name)
        try:
            if any(
                isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)
            ):
                raise FormatError(
                    f"{_base(name)} uses YAML aliases, which can grow without bound.",
                    code="FILE_SUSPICIOUS",
                )
            _refuse_two_values(name, yaml.compose(text, yaml.SafeLoader))
            return _object(name, yaml.safe_load(text), "YAML")
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{_base(name)} is no valid YAML: {' '.join(str(error).split())[:300]}.",
                hint="Get the file again.",
            ) from error

    def text(self, name: str) -> str:
        """Read a text file of at most 1 MiB."""
        with self.open(name) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise FormatError(
                f"{_base(name)} is larger than 1 MiB: no SAE configuration is.",
                code="FILE_SUSPICIOUS",
            )
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{_base(name)} is no UTF-8 text: {error}.", hint="Get the file again."
            ) from error


def join(folder: str, name: str) -> str:
    """Join `name` to `folder`, where "" is the root."""
    return f"{folder}/{name}" if folder else name


def local_source(
    place: Path, known: Mapping[str, Any] | None = None, *, n_below: int = 2
) -> FileSource:
    """The source of a folder, or of a single file and its neighbours (an SAE that is one file), on
    this disk; its names reach `n_below` folders down, deep enough for every SAE.

    Raises:
        NotFoundError: there is no such folder or file.
    """
    if not place.exists():
        raise NotFoundError(
            f"There is no folder or file {str(place)!r}.",
            code="FILE_MISSING",
            field="path",
            got=place,
            hint="Give the folder that holds the SAE's configuration and weights.",
        )
    check_regular(place, folders=True)
    root = place if place.is_dir() else place.parent

    def local(name: str) -> Path:
        file = root / name
        if not check_inside(file).exists():
            raise NotFoundError(
                f"There is no {file.name} in {file.parent.name or file.parent}.",
                code="FILE_MISSING",
                got=name,
            )
        return file

    def opened(name: str) -> BinaryIO:
        with present(name):
            return open_file(local(name))

    return FileSource(
        opener=opened,
        local=local,
        names=_names(root, n_below) | _above(root),
        path="" if place.is_dir() else place.name,
        known=dict(known or {}),
    )


def _above(root: Path) -> frozenset[str]:
    """Configurations of a whole training run, which lies above the folders of its SAEs."""
    there = (name for name in RUN_CONFIGS if (root / name).is_file())
    return frozenset(name for name in there if is_inside(root / name))


def _names(root: Path, n_below: int) -> frozenset[str]:
    """Files at most so many folders deep: cheap if someone names a home folder."""
    names: set[str] = set()
    for folder, below, files in os.walk(root):
        here = Path(folder).relative_to(root)
        names |= {(here / name).as_posix() for name in files}
        if len(here.parts) >= n_below or len(names) > _MAX_NAMES:
            below.clear()
    return frozenset(names)


def _unambiguous(name: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made and not same(made[key], value):
                raise contradiction(
                    (f"{_base(name)}: {key}", made[key]), (f"the same {key} again", value)
                )
            made[key] = value
        return made

    return make


def _refuse_two_values(name: str, node: yaml.Node | None) -> None:
    """PyYAML takes the last of two values of one key without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_two_values(name, item)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, str] = {}
        for key, value in node.value:
            _refuse_two_values(name, value)
            if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
                first = seen.setdefault(key.value, value.value)
                agree(
                    (f"{_base(name)}: {key.value}", first),
                    (f"the same {key.value} again", value.value),
                )


def _object(name: str, content: object, kind: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{_base(name)} must hold a {kind} object, got {type(content).__name__}.")
    return {str(key): value for key, value in content.items()}


def _base(name: str) -> str:
    return name.rpartition("/")[2]
