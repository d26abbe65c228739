"""Packages that not everybody needs: each comes with an extra of saescope, and whoever asks for
what it does without having it learns which."""

import sys
from importlib.util import find_spec

from saescope.errors import ConfigError

EXTRAS = {
    "matplotlib": "pictures",
    "datasets": "datasets",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
}
"""The extra in pyproject.toml that installs a package."""


def require_extra(package: str, what: str, *, field: str, without: str) -> None:
    """Nothing is imported. `what` begins the sentence, `without` says how to do without it.

    Raises:
        ConfigError: EXTRA_MISSING, the package is not installed; the next step installs it into
            the environment that runs.
    """
    found = find_spec(package)
    if found is not None and found.origin is not None:  # else a folder of that name, as of runs
        return
    wanted = f"saescope[{EXTRAS[package]}]"
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    raise ConfigError(
        f"{what} needs the package {package}, which {wanted} installs and a plain saescope "
        "does not.",
        code="EXTRA_MISSING",
        field=field,
        got=f"no package {package}",
        allowed=wanted,
        hint=f'Run in a terminal: {python} -m pip install "{wanted}", or {without}',
        facts={"package": package, "extra": EXTRAS[package]},
    )
