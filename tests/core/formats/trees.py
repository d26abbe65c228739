"""SAE trees for the dialect tests: as a folder on this disk, and as a repository on the hub."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saescope.errors import NotFoundError
from saescope.formats import DIALECTS, FileSource, local_source, pickles
from saescope.saes import ARCHITECTURES, SAE

D_IN, D_SAE = 16, 48


def hub(tree: Path, repo_id: str, path: str, known: Mapping[str, Any] | None = None) -> FileSource:
    """The tree as a repository of the hub."""

    def local(name: str) -> Path:
        if not (tree / name).is_file():
            raise NotFoundError(f"There is no {name}.", code="FILE_MISSING")
        return tree / name

    names = frozenset(
        file.relative_to(tree).as_posix() for file in tree.rglob("*") if file.is_file()
    )
    return FileSource(
        opener=lambda name: local(name).open("rb"),
        local=local,
        names=names,
        path=path,
        repo_id=repo_id,
        known=dict(known or {}),
    )


def detect(place: Path, known: Mapping[str, Any] | None = None) -> tuple[Any, FileSource]:
    """A folder or a file on this disk, and the dialect that its files are in."""
    source = local_source(place, known)
    files = {source.path} if source.path else set(source.names)
    matching = [dialect for dialect in DIALECTS if dialect.matches(files)]
    assert len(matching) == 1, f"{[dialect.name for dialect in matching]} match {files}"
    return matching[0], source


def load(dialect: Any, source: FileSource, dtype: torch.dtype = torch.float32) -> SAE:
    cfg, tensors = dialect.read(source, dtype)
    return ARCHITECTURES[cfg.architecture][1](cfg, tensors)


def load_place(place: Path, known: Mapping[str, Any] | None = None) -> SAE:
    return load(*detect(place, known))


def random_weights(seed: int = 0, d_out: int = D_IN) -> dict[str, Tensor]:
    """Every bias non-zero, decoder norms far from 1; field shapes."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    return {
        "W_enc": randn(D_IN, D_SAE) / D_IN**0.5,
        "W_dec": randn(D_SAE, d_out)
        / D_IN**0.5
        * (0.3 + 2.0 * torch.rand(D_SAE, 1, generator=rng)),
        "W_skip": randn(d_out, D_IN) / D_IN**0.5,
        "b_enc": 0.4 * randn(D_SAE) - 0.2,
        "b_dec": 0.5 * randn(d_out),
        "threshold": 0.1 + torch.rand(D_SAE, generator=rng),
        "x": randn(7, D_IN) * 1.5 + 0.3,
    }


def assert_close(ours: Tensor, expected: Tensor) -> None:
    """Each position within 1e-5 of its own norm."""
    assert ours.shape == expected.shape
    error = (ours.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1).clamp(
        min=1e-6
    )
    assert error.max() <= 1e-5, (
        f"off by {error.max():.1e} of the norm at position {int(error.argmax())}"
    )


@contextmanager
def pickles_allowed(
    setenv: Callable[[str, str], None], setattr_: Callable[[object, str, object], None]
) -> Generator[None]:
    """As if the user allowed .pt files; converted in this process, which the tests of the child
    process do not do."""
    setenv(pickles.SETTING, "1")
    setattr_(pickles, "_run_child", lambda path, out: {"values": pickles.convert(path, out)})
    yield
