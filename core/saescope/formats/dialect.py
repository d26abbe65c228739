"""What a dialect is: how its files are recognised, which of them a load reads, and how an SAE is
made of them."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saescope.formats.beside import beside, check_beside
from saescope.formats.recipe import Recipe
from saescope.formats.source import FileSource, join
from saescope.formats.weights import TensorInfo
from saescope.saes import SAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way in which SAEs lie on disk."""

    name: str
    """The dialect's name in the catalogue."""
    matches: Callable[[set[str]], bool]
    """Whether these are the files of the SAE's own folder (or {file name}, if the SAE is one
    file)."""
    wanted: Callable[[str], tuple[str, ...]]
    """SAE's path -> patterns, relative to the repository's root, of the files that a load reads."""
    recipe: Callable[[FileSource], Recipe]
    """How the SAE is made; reads configuration and headers, and checks both."""
    preview: Callable[[FileSource], Recipe] | None = None
    """The recipe from names and configuration alone, where a header would cost the download or the
    conversion of the weights."""
    judges: tuple[str, ...] = ()
    """Configurations of its own whose every field the recipe compares."""

    def files(self, source: FileSource) -> tuple[str, ...]:
        """Patterns of the files that a load reads: the dialect's own, and what stands beside."""
        return (*self.wanted(source.path), *beside(source.folder))

    def peek(self, source: FileSource) -> tuple[SAEConfig, dict[str, TensorInfo]]:
        """Configuration, and the tensors as they end up, without reading a weight."""
        made = self.checked(source, preview=True)
        return made.cfg, made.infos()

    def read(self, source: FileSource, dtype: torch.dtype) -> tuple[SAEConfig, dict[str, Tensor]]:
        """Configuration, and the tensors under our names in the field's shapes; W_enc
        feature-major."""
        return self.checked(source).read(source, dtype)

    def checked(self, source: FileSource, *, preview: bool = False) -> Recipe:
        """The recipe, compared with what stands beside; no weight is read."""
        made = ((preview and self.preview) or self.recipe)(source)
        check_beside(source, made.cfg, own=self.judges)
        return made


def folder_with(*files: str) -> Callable[[set[str]], bool]:
    """Match a folder that holds all of these files."""
    return lambda names: {*files} <= names


def file_named(pattern: re.Pattern[str]) -> Callable[[set[str]], bool]:
    """Match an SAE that is one file with such a name."""
    return lambda names: len(names) == 1 and bool(pattern.fullmatch(next(iter(names))))


def never(names: set[str]) -> bool:
    """Matches nothing: the files are those of another dialect, and only the catalogue or that
    dialect tells them apart."""
    return False


def inside(*files: str) -> Callable[[str], tuple[str, ...]]:
    """Want these files of the SAE's folder."""
    return lambda path: tuple(join(path, file) for file in files)
