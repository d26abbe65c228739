"""What a publication consists of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """A file of a published SAE, under its name at the target."""

    name: str
    n_bytes: int
