"""Packages that not everybody needs: each comes with an extra of saescope, and whoever asks for
what it does without having it learns which."""

import sys
from importlib.util import find_spec
from pathlib import Path

from saescope.errors import ConfigError

EXTRAS = {
    "datasets": "datasets",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "scipy": "worlds",
}
"""The extra in pyproject.toml that installs a package."""


def require_extra(package: str, what: str, *, field: str, without: str) -> None:
    """Nothing is imported. `what` begins the sentence, `without` says how to do without it.

    Raises:
        ConfigError: EXTRA_MISSING, the package is not installed; the next step installs it into
            the environment that runs.
    """
    if is_installed(package):
        return
    wanted = f"saescope[{EXTRAS[package]}]"
    install = pip_install(f'"{wanted}"')
    raise ConfigError(
        f"{what} needs the package {package}, which {wanted} installs and a plain saescope "
        "does not.",
        code="EXTRA_MISSING",
        field=field,
        got=f"no package {package}",
        allowed=wanted,
        hint=f"Run in a terminal: {install}, or {without}",
        facts={"package": package, "extra": EXTRAS[package]},
    )


def is_installed(package: str) -> bool:
    """Whether a package that an extra brings is there; nothing is imported."""
    found = find_spec(package)
    return found is not None and found.origin is not None  # else a folder, as of runs


def pip_install(words: str) -> str:
    """The command that installs into the environment that runs, whatever `python` is in a shell."""
    python = Path(sys.executable).as_posix()  # PowerShell takes a path with slashes as it is
    python = f'"{python}"' if " " in python else python
    return f"{python} -m pip install {words}"
