"""How Neuronpedia names an SAE: `gpt2-small/8-res-jb`, which is the model and the source
`<layer>-<source set>`."""

import re
from typing import NamedTuple

from saescope.errors import ArgumentError

SITE = "https://www.neuronpedia.org"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_ID = re.compile(rf"({_PART})/({_PART})")


class HostedSAE(NamedTuple):
    """An SAE as Neuronpedia names it."""

    model: str
    source: str

    @classmethod
    def parse(cls, neuronpedia_id: str) -> "HostedSAE":
        """Read `<model>/<source>`, as the catalogue and an SAE's metadata have it.

        Raises:
            ArgumentError: NOT_ON_NEURONPEDIA, it is empty or no such name.
        """
        match = _ID.fullmatch(neuronpedia_id)
        if not match or ".." in neuronpedia_id:
            raise ArgumentError(
                "This SAE has no page on Neuronpedia."
                if not neuronpedia_id
                else "That is no Neuronpedia id.",
                code="NOT_ON_NEURONPEDIA",
                field="neuronpedia_id",
                got=neuronpedia_id[:80],
                allowed="<model>/<source>, e.g. gpt2-small/8-res-jb",
                hint="ss.find_saes lists the SAEs that have one as neuronpedia_id.",
                facts={"id": neuronpedia_id},
            )
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{self.model}/{self.source}"


def feature_page(neuronpedia_id: str, feature: int, *, embed: bool = False) -> str:
    """The address of a feature's page, for people; nothing is asked of it.

    Raises:
        ArgumentError: as `HostedSAE.parse`.
    """
    return f"{SITE}/{HostedSAE.parse(neuronpedia_id)}/{feature}{'?embed=true' if embed else ''}"
