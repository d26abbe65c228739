"""Layers, as a caller writes them and as the names of files and folders say them."""

import re

from saescope.errors import ArgumentError, NotFoundError

ANY = "{layer}"
"""Stands for the number of the layer in a path, an id or a hook name."""
_PART = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_NUMBER = re.compile(
    r"(?:^|[/_.-])(?:layers?|blocks?|h|l|W_enc|params_layer)[._-]?(\d+)(?=[._/-]|$)", re.IGNORECASE
)
_ALONE = re.compile(r"(?:^|/)(\d+)(?=/|$)")


def parse_layers(layers: str) -> frozenset[int] | None:
    """`"0-2,7" -> {0, 1, 2, 7}`; None for "all".

    Raises:
        ArgumentError: INVALID_LAYERS.
    """
    if layers.strip() == "all":
        return None
    chosen: set[int] = set()
    for part in layers.split(","):
        match = _PART.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ArgumentError(
                f"layers {layers!r} names no layers: {part.strip()!r} is neither a layer nor a "
                "range from a lower to a higher one.",
                code="INVALID_LAYERS",
                field="layers",
                got=layers,
                allowed='"all", "0-11" or "3,7"',
                hint='Write them as layers="all" or layers="0-11,14".',
            )
        chosen |= {*range(first, last + 1)}
    return frozenset(chosen)


def written(layers: list[int]) -> str:
    """`[0, 1, 2, 7] -> "0-2,7"`."""
    parts: list[str] = []
    for layer in sorted(layers):
        first, _, last = parts[-1].partition("-") if parts else ("", "", "")
        if parts and layer == int(last or first) + 1:
            parts[-1] = f"{first}-{layer}"
        else:
            parts.append(str(layer))
    return ",".join(parts)


def number_in(path: str) -> int | None:
    """The layer that a path names: 3 in "layer_3/width_16k", 5 in "layers.5.mlp", 4 in "4"."""
    match = _NUMBER.search(path) or _ALONE.search(path)
    return int(match[1]) if match else None


def number_by(pattern: str, path: str) -> int | None:
    """The layer for which `pattern`, which holds {layer}, is this path; "*" stands for what may
    differ from layer to layer in one name."""
    before, *after = (re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split(ANY))
    again = r"\1".join(after)
    match = re.fullmatch(rf"{before}(\d+){again}", path)
    return int(match[1]) if match else None


def choose(there: dict[int, str], wanted: frozenset[int] | None, what: str) -> dict[int, str]:
    """Those of the layers that are there that are wanted.

    Raises:
        NotFoundError: LAYER_NOT_FOUND.
    """
    missing = sorted((wanted or frozenset()) - there.keys())
    if missing:
        raise NotFoundError(
            f"{what} has no layer {', '.join(map(str, missing[:10]))}.",
            code="LAYER_NOT_FOUND",
            field="layers",
            got=written(missing),
            allowed=written([*there]),
            hint=f'Call ss.load_set(..., layers="{written([*there])}").',
        )
    return {n: there[n] for n in sorted(there) if wanted is None or n in wanted}
