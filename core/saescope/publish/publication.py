"""What a publication consists of."""

from dataclasses import dataclass
from typing import NamedTuple

from saescope.records.publication import PublishedFile


class Loading(NamedTuple):
    """The ways in which others load it."""

    saescope: str
    """Python, with `import saescope as ss`."""
    tool: str
    command: str
    sae_lens: str
    """Python, with `from sae_lens import SAE`; empty for an architecture that sae-lens does not
    have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is written where, or in a dry run would be."""

    target: str
    """The folder, or the repository's address."""
    files: tuple[PublishedFile, ...]
    load: Loading
    card: str
    """The text of the README."""
    written: bool
    private: bool | None
    """Whether the repository is private; None for a folder."""
    commit: str
    """The commit of the repository; empty for a folder or a dry run."""
    warnings: tuple[str, ...]
