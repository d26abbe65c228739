"""What this installation consists of: versions beside those that saescope's own metadata asks for,
and what they take on the disk."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distributions,
    metadata,
    requires,
    version,
)
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

_OF_TORCH = {"triton", "pytorch-triton", "torchvision", "torchaudio"}
"""What a build of torch brings along, beside the packages of NVIDIA."""
_EXTRA = re.compile(r'extra == "([\w-]+)"')
_ALL = "all"
"""The extra that only lists the others."""


@dataclass(frozen=True)
class Wanted:
    """A package that saescope asks for."""

    name: str
    range: str
    """The versions that are supported; empty: any."""
    extra: str = ""
    """The extra that brings it; empty: nothing works without it."""

    def found(self) -> str | None:
        try:
            return version(self.name)
        except PackageNotFoundError:
            return None


def packages_wanted() -> list[Wanted]:
    """The packages that saescope's metadata names, those of extras last."""
    read = (_wanted(Requirement(line)) for line in requires("saescope") or ())
    wanted = [each for each in read if each and each.extra != _ALL and each.name != "saescope"]
    return sorted(wanted, key=lambda each: bool(each.extra))


def python_wanted() -> str:
    return _tidy(SpecifierSet(metadata("saescope")["Requires-Python"]))


def fits(found: str, supported: str) -> bool:
    """Whether a version lies in a range such as ">=4.3, <4.4", before its release too."""
    return SpecifierSet(supported).contains(found, prereleases=True)


def installed_size(which: Callable[[str], bool]) -> int:
    """The bytes of the installed packages of these names, as they were recorded."""
    found = {_name(each): each for each in distributions()}
    return sum(_size(each) for name, each in found.items() if which(name))


def is_of_torch(name: str) -> bool:
    """Whether a package is torch, or came with it."""
    return name == "torch" or name in _OF_TORCH or name.startswith("nvidia-")


def folder_size(folder: Path) -> int:
    """The bytes of a folder's files; links to files elsewhere count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(place, name))
                total += status.st_size if not os.path.islink(os.path.join(place, name)) else 0
    return total


def _wanted(asked: Requirement) -> Wanted | None:
    """What a line of the metadata asks for; None where it is for other systems."""
    extra = _EXTRA.search(str(asked.marker))
    if asked.marker and not asked.marker.evaluate({"extra": extra[1] if extra else ""}):
        return None
    return Wanted(asked.name, _tidy(asked.specifier), extra[1] if extra else "")


def _tidy(range_: SpecifierSet) -> str:
    """The lower end first."""
    return ", ".join(sorted(map(str, range_), key=lambda limit: limit[0] not in ">=~"))


def _name(each: Distribution) -> str:
    return canonicalize_name(each.name or "")


def _size(each: Distribution) -> int:
    return sum(file.size or 0 for file in each.files or ())
