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

_OF_TORCH = {"triton", "pytorch-triton", "torchvision", "torchaudio"}
"""What a build of torch brings along, beside the packages of NVIDIA."""
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[.*?\])?\s*\(?(?P<range>[^;)]*)\)?\s*(?:;(?P<when>.*))?"
)
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_LIMIT = re.compile(r"(>=|<=|==|!=|<|>|~=)\s*([\w.*+!-]+)")
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
    read = (_wanted(line) for line in requires("saescope") or ())
    wanted = [each for each in read if each and each.extra != _ALL and each.name != "saescope"]
    return sorted(wanted, key=lambda each: bool(each.extra))


def python_wanted() -> str:
    return _tidy(metadata("saescope")["Requires-Python"])


def fits(found: str, supported: str) -> bool:
    """Whether a version lies in a range such as ">=4.3, <4.4"; a build such as "+cpu" is none of
    the version."""
    at = _parts(found.split("+")[0])
    return all(_holds(at, sign, limit) for sign, limit in _LIMIT.findall(supported))


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


def _wanted(line: str) -> Wanted | None:
    match = _REQUIREMENT.match(line)
    if not match:
        return None
    when = match["when"] or ""
    extra = _EXTRA.search(when)
    return Wanted(match["name"], _tidy(match["range"]), extra[1] if extra else "")


def _tidy(range_: str) -> str:
    """The lower end first."""
    limits = [f"{sign}{limit}" for sign, limit in _LIMIT.findall(range_)]
    return ", ".join(sorted(limits, key=lambda limit: not limit.startswith((">", "=", "~"))))


def _parts(version_: str) -> tuple[int, ...]:
    """The numbers of a release; what follows them (a1, rc2, .post1) tells nothing here."""
    numbers = re.match(r"v?(\d+(?:\.\d+)*)", version_)
    return tuple(int(part) for part in numbers[1].split(".")) if numbers else ()


def _holds(at: tuple[int, ...], sign: str, limit: str) -> bool:
    to = _parts(limit)
    width = max(len(at), len(to))
    here, there = (each + (0,) * (width - len(each)) for each in (at, to))
    if limit.endswith(".*"):
        return (at[: len(to)] == to) == (sign == "==")
    if sign == "~=":
        return here >= there and at[: len(to) - 1] == to[:-1]
    holds = {
        ">=": here >= there,
        "<=": here <= there,
        "<": here < there,
        ">": here > there,
        "==": here == there,
        "!=": here != there,
    }
    return holds[sign]


def _name(each: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", each.name or "").lower()


def _size(each: Distribution) -> int:
    return sum(file.size or 0 for file in each.files or ())
