"""Ways to damage a file: bytes anywhere, and values inside JSON."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2.5,
    1 << 31,
    1 << 70,
    1e308,
    "",
    "x",
    "../../etc/passwd",
    "\ud83d",
    "\x1b[2J",
    [],
    [[]],
    {},
    {"": None},
    "9" * 5000,
)
"""What stands where something else was expected."""


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def missing(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 64) :]


def extra(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randint(1, 64)) + data[start:]


def flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 8])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flipped_head(rng: random.Random, data: bytes) -> bytes:
    """Where most formats keep their lengths."""
    changed = bytearray(data)
    changed[rng.randrange(min(len(data), 512))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    return bytes(changed)


def zeroed(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    n = min(rng.choice([1, 64, 4096]), len(data) - start)
    return data[:start] + bytes(n) + data[start + n :]


def twice(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randint(1, 4096)]
    return data[:start] + piece + data[start:]


def replaced(rng: random.Random, data: bytes) -> bytes:
    return rng.choice([b"", b"\0" * 64, b"{}", b"[]", b"null", b"<html>", rng.randbytes(256)])


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    cut,
    missing,
    extra,
    flipped,
    flipped_head,
    zeroed,
    twice,
    replaced,
)


def json_value(rng: random.Random, data: bytes) -> bytes:
    """A value anywhere in the document is gone, another key's, or odd."""
    document = json.loads(data)
    holder = document
    while isinstance(holder, dict | list) and holder:
        keys = list(holder) if isinstance(holder, dict) else list(range(min(len(holder), 50)))
        key = rng.choice(keys)
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            holder = inner
            continue
        if rng.random() < 0.3:
            del holder[key]
        else:
            holder[key] = rng.choice(ODD)
        break
    return json.dumps(document).encode()


def damage(rng: random.Random, file: Path) -> str:
    """Damage one file in place; how."""
    data = file.read_bytes()
    ways = [*BYTES, *([json_value] * len(BYTES) if file.suffix == ".json" else [])]
    way = rng.choice(ways)
    file.write_bytes(way(rng, data))
    return f"{file.name} {way.__name__}"
