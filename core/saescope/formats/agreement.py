"""What two fields, two files or a file and its folder say of the same thing must be the same:
otherwise one of them is wrong, and an SAE that is read by the wrong one gives wrong numbers without
an error."""

import re
from collections.abc import Mapping
from math import isnan
from typing import Any

from saescope.errors import ConfigError

_LAYER = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def agree(*claims: tuple[str, object], code: str = "") -> None:
    """Raise unless all claims, each a place and its value, are equal; one that is None or "" says
    nothing.

    Raises:
        ConfigError: two differ; both places are named.
    """
    stated = [(where, value) for where, value in claims if value is not None and value != ""]
    for claim in stated[1:]:
        if not same(claim[1], stated[0][1]):
            raise contradiction(stated[0], claim, code=code)


def contradiction(
    one: tuple[str, object], other: tuple[str, object], *, code: str = ""
) -> ConfigError:
    """Make the error for two claims of which at most one can be right."""
    (first, expected), (where, value) = one, other
    return ConfigError(
        f"{first} is {expected!r}, yet {where} is {value!r}: one of them is wrong.",
        code=code,
        field=where.rpartition(" ")[2],
        got=value,
        allowed=expected,
        hint=f"Find out which one the SAE was trained with, and correct {first} or {where}.",
    )


def same(one: object, other: object) -> bool:
    """Equal, and neither of them a number where the other is a truth value: 1 == True in Python.
    NaN says the same as NaN."""
    if isinstance(one, float) and isinstance(other, float) and isnan(one) and isnan(other):
        return True
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def agree_along(path: str, pattern: re.Pattern[str]) -> None:
    """Raise unless every name on a path that the pattern finds says the same, as a file and the
    folder that is called after it."""
    names = [match[0] for match in pattern.finditer(path)]
    agree(*((f"the name {name!r}", name) for name in names))


def layer_in(hook_name: object) -> int | None:
    """Read the number of the block from a hook name."""
    match = _LAYER.search(hook_name) if isinstance(hook_name, str) else None
    return int(match[1]) if match else None


def whole(settings: Mapping[str, Any], key: str) -> int | None:
    """A whole number, if the key has one; what has another type is judged elsewhere."""
    return settings[key] if type(settings.get(key)) is int else None
