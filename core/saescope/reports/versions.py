"""Which versions are here."""

from importlib.metadata import PackageNotFoundError, version
from platform import python_version


def installed(package: str) -> str:
    """The version of a package here, or of Python."""
    if package == "python":
        return python_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
