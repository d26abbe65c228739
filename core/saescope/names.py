"""Names: SAE references, hook names, folders. Standard library and platformdirs only."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

import platformdirs

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def split_hook(hook_name: str) -> tuple[int | None, str]:
    """`"blocks.8.hook_resid_pre" -> (8, "resid_pre")`; `"blocks.3.attn.hook_z" -> (3,
    "attn.z")`."""
    match = _BLOCK.fullmatch(hook_name)
    layer, site = (int(match[1]), match[2]) if match else (None, hook_name)
    return layer, ".".join(part.removeprefix("hook_") for part in site.split("."))


def same_site(hook_name: str, layer: int) -> str:
    """`("blocks.8.hook_resid_pre", 3) -> "blocks.3.hook_resid_pre"`."""
    return _BLOCK.sub(rf"blocks.{layer}.\2", hook_name)


def nearest(word: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """The `n` choices most like `word`, best first; case does not count."""
    by_lower = {choice.lower(): choice for choice in choices}
    return [by_lower[match] for match in get_close_matches(word.lower(), by_lower, n=n, cutoff=0.4)]


@dataclass(frozen=True, slots=True)
class Source:
    """What identifies an SAE; all empty is the embedded one."""

    release: str = ""
    sae_id: str = ""
    path: str = ""
    model: str = ""
    hook_name: str = ""
    revision: str = ""
    gate: str = ""
    layers: str = ""
    """Those of a set ("all", "0-11" or "3,7"); empty for one SAE."""

    @property
    def known(self) -> dict[str, str]:
        """What the user says of the SAE, which wins over its files."""
        return {
            name: value
            for name, value in (("hook_name", self.hook_name), ("gate", self.gate))
            if value
        }

    @property
    def digest(self) -> str:
        given = {name: value for name, value in asdict(self).items() if value}
        return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:6]


WANDB_QUIETED = "_SAESCOPE_QUIETED_WANDB"
"""Set where WANDB_MODE is ours and not the user's."""


def home() -> Path:
    """The folder in which models, handles and results are kept: `SAESCOPE_HOME`, else the
    platform's data folder."""
    chosen = os.environ.get("SAESCOPE_HOME")
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("saescope")
