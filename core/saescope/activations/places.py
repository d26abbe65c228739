"""Folders that many processes fill and read: on a disk, or wherever fsspec reaches (s3://, gs://,
memory://). Every file in them is there whole or not at all."""

import hashlib
import os
import re
import secrets
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from saescope.errors import ArgumentError, ConfigError, cause_of
from saescope.fence import OWN_BYTES, open_own, read_own

PART = re.compile(r"\..+\.part")
"""What a writer that was killed on a disk may leave."""
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)(?:::|://)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_ON_DISK = ("file", "local")


class StoreFolder(ABC):
    """A folder of files that are written once."""

    title: str
    """The folder in a sentence."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write a file: whole, or not at all."""

    @abstractmethod
    def read(self, name: str, *, limit: int | None = None) -> bytes:
        """Read a file of at most `limit` bytes.

        Raises:
            OSError: FileNotFoundError where there is none; it is larger, or cannot be read.
        """

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes by name of every file that is there now."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; none there is no error."""

    @abstractmethod
    def holds(self, name: str, *, n_bytes: int, sha256: str) -> bool:
        """Whether a file of an earlier process can be gone on from."""


class Disk(StoreFolder):
    """A folder of a file system, also of one that several machines share."""

    def __init__(self, path: Path) -> None:
        self.path, self.title = path, repr(path.name)

    def put(self, name: str, data: bytes) -> None:
        """Beside its place first, under a name that no other writer has."""
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.part"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path / name)
        finally:
            part.unlink(missing_ok=True)

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        return read_own(self.path / name, limit=OWN_BYTES if limit is None else limit)

    def sizes(self) -> dict[str, int]:
        found = dict[str, int]()
        for path in self.path.iterdir() if self.path.is_dir() else ():
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has removed it since
                continue
            if path.is_file():
                found[path.name] = status.st_size
        return found

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def holds(self, name: str, *, n_bytes: int, sha256: str) -> bool:
        """A disk may lose what was written before the power failed: its content is looked at."""
        return self.sha256(name) == sha256

    def sha256(self, name: str) -> str:
        with open_own(self.path / name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Remote(StoreFolder):
    """A folder behind fsspec. An object store shows an object once it is whole; of other stores a
    torn file is found by its hash. Who may read and write is up to the environment."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.title = repr(url)
        try:
            self.fs: Any
            self.fs, root = url_to_fs(url)
        except (ImportError, ValueError) as error:  # no driver, or none of that name
            raise ConfigError(
                f"{self.title} cannot be opened: {cause_of(error)}.",
                code="EXTRA_MISSING" if isinstance(error, ImportError) else "UNKNOWN_FORMAT",
                field="folder",
                got=url,
                hint="Install the package of fsspec for it (s3fs for s3://, gcsfs for gs://), or "
                "name a folder on a disk.",
            ) from error
        self.root = str(root).rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        self.fs.pipe_file(f"{self.root}/{name}", data)

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        path = f"{self.root}/{name}"
        data: bytes = self.fs.cat_file(path, end=None if limit is None else limit + 1)
        if limit is not None and len(data) > limit:
            raise OSError(f"{name} has more than {limit} bytes")
        return data

    def sizes(self) -> dict[str, int]:
        self.fs.invalidate_cache(self.root)
        try:
            rows: list[dict[str, Any]] = self.fs.ls(self.root, detail=True)
        except FileNotFoundError:
            return {}
        files = [row for row in rows if row["type"] == "file"]
        return {str(row["name"]).rpartition("/")[2]: row["size"] for row in files}

    def remove(self, name: str) -> None:
        try:
            self.fs.rm_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return

    def holds(self, name: str, *, n_bytes: int, sha256: str) -> bool:
        """Fetching all that was written would take as long as writing it: every reader compares the
        hash."""
        return self.fs.size(f"{self.root}/{name}") == n_bytes


def place_of(folder: str | Path) -> StoreFolder:
    """The folder of a path or of a URL.

    Raises:
        ArgumentError: SECRET_IN_URL: it carries a password or a token, which records would keep;
            INVALID_ARGUMENT: it joins several file systems.
        ConfigError: EXTRA_MISSING: fsspec lacks a package for it; UNKNOWN_FORMAT.
    """
    found = _URL.match(folder) if isinstance(folder, str) else None
    if found is None or len(found["scheme"]) == 1:  # a drive of Windows
        return Disk(Path(folder).expanduser())
    url = str(folder)
    if "::" in url:
        raise ArgumentError(
            "The URL joins several file systems.",
            field="folder",
            allowed='a path, or one URL: "s3://bucket/folder"',
        )
    scheme, rest = found["scheme"].lower(), found["rest"]
    if "@" in rest.partition("/")[0] or "?" in rest or "#" in rest:
        raise ArgumentError(
            f"The {scheme} URL carries more than a place: a user, a password or a token.",
            code="SECRET_IN_URL",
            field="folder",
            allowed=f"{scheme}://place/folder",
            hint="Give these to fsspec by the environment or its configuration file.",
        )
    if scheme in _ON_DISK:
        return Disk(Path(rest).expanduser())
    return Remote(url)
