"""The front door for SAEs: a release or repository on the hub, a folder or file on disk, or the
embedded default."""

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope import hub
from saescope.devices import pick_device, pick_dtype
from saescope.embedded import EMBEDDED_SAE_DIR
from saescope.errors import ArgumentError, ConfigError, FormatError, NotFoundError, SaescopeError
from saescope.formats import BY_NAME, Dialect, FileSource
from saescope.formats.detect import CONFIGS, belongs_to, closest, detect, local_sae
from saescope.formats.recipe import Recipe
from saescope.formats.unknown import unknown_locally, unknown_remotely
from saescope.hub import Fetch
from saescope.progress import Say
from saescope.saes import ARCHITECTURES, SAE, Decoders, SAEConfig, SAEMetadata

_OVERRULED_BY = {
    "hf_module": "hook_name",
    "hf_side": "hook_name",
    "hf_module_out": "hook_name_out",
}
ANOTHER = "To load another SAE, call ss.find_saes(): it lists those that are published."


class SAEInfo(NamedTuple):
    """What is known of an SAE before a weight is read."""

    cfg: SAEConfig
    weights_bytes: int
    """The bytes that the weights take in memory as float32."""
    source: str
    dialect: str
    repo_id: str
    """Empty for an SAE that is not from the hub."""
    revision: str
    """The commit; empty for an SAE that is not from the hub."""
    files: tuple[str, ...]
    """What a load reads, as far as it is known."""


class LocatedSAE(NamedTuple):
    """An SAE's files, found and recognised; nothing of them is read yet."""

    source: FileSource
    dialect: Dialect
    name: str
    revision: str
    asked: Mapping[str, Any]
    """What the user says of it: this wins over its files."""


class DecoderFiles(NamedTuple):
    """Where the decoders of a layer of a cross-layer transcoder are, and how rows of them come into
    memory."""

    located: LocatedSAE
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype

    def rows(self, features: Int[Tensor, " n"], later: int) -> Float[Tensor, "n d_out"]:
        """What features write `later` layers after their own, a unit of each."""
        with advised(self.located):
            rows = self.recipe.decoder_rows(
                self.located.source, features.tolist(), self.dtype, later=later
            )
        return rows.to(self.device)


def load_sae(
    path: str | Path | None = None,
    *,
    release: str = "",
    sae_id: str = "",
    device: str = "auto",
    dtype: str = "auto",
    revision: str = "",
    offline: bool = False,
    progress: Say | None = None,
    known: Mapping[str, Any] | None = None,
) -> SAE:
    """The SAE of a folder or file, of a release (`release` and `sae_id`; or a repository
    `owner/name` and a path in it as `sae_id`), or without arguments the embedded one. `known`
    overrides what the catalogue and the files say (hook_name, model_name, gate ...). `revision` is
    a branch, tag or commit; `offline` takes only what is here already; `progress` is told what is
    being downloaded.

    Raises:
        NotFoundError, OfflineError: it is not there, or not here and the network is not to be used.
        ConfigError, FormatError: its files are incomplete, torn or in a dialect that saescope does
            not read.
    """
    fetch = Fetch(revision, offline, progress)
    located = locate(path, release, sae_id, known=known, fetch=fetch)
    return read_located(located, pick_device(device), dtype)


def peek_sae(
    path: str | Path | None = None,
    *,
    release: str = "",
    sae_id: str = "",
    revision: str = "",
    offline: bool = False,
    known: Mapping[str, Any] | None = None,
) -> SAEInfo:
    """Configuration and size of an SAE, from its configuration and the header of its weights: of a
    remote one no weight is fetched."""
    fetch = Fetch(revision, offline)
    return peek_located(locate(path, release, sae_id, known=known, fetch=fetch))


def read_located(located: LocatedSAE, where: torch.device, dtype: str) -> SAE:
    """The SAE of these files; raises as `ss.load_sae`."""
    with advised(located):
        stored = getattr(
            torch, located.dialect.peek(located.source)[0].dtype
        )  # refuses what will not load before a weight is fetched
        for name in _wanted(located):
            located.source.local(name)
        recipe, as_dtype = located.dialect.checked(located.source), pick_dtype(dtype, where, stored)
        cfg, tensors = recipe.read(located.source, as_dtype)
        sae = ARCHITECTURES[cfg.architecture][1](_signed(located, cfg), tensors).to(where)
        if recipe.n_written > 1:
            files = DecoderFiles(located, recipe, where, sae.dtype)
            sae.decoders = Decoders(recipe.n_written, files.rows)
        return sae


def peek_located(located: LocatedSAE) -> SAEInfo:
    """What these files say before a weight is read; raises as `peek_sae`."""
    with advised(located):
        return info_of(located, located.dialect.checked(located.source, preview=True))


def info_of(located: LocatedSAE, recipe: Recipe) -> SAEInfo:
    """What is known of an SAE whose recipe was made."""
    n_bytes = sum(4 * math.prod(info.shape) for info in recipe.infos().values())
    return SAEInfo(
        cfg=_signed(located, recipe.cfg),
        weights_bytes=n_bytes,
        source=located.name,
        dialect=located.dialect.name,
        repo_id=located.source.repo_id,
        revision=located.revision,
        files=tuple(_wanted(located)),
    )


def locate(
    path: str | Path | None,
    release: str,
    sae_id: str,
    *,
    known: Mapping[str, Any] | None,
    fetch: Fetch,
) -> LocatedSAE:
    """The files that `ss.load_sae` reads for the same arguments; raises as it does."""
    if path and release:
        raise ArgumentError(
            "Give either a path or a release, not both.",
            field="path",
            hint="Leave one of them out.",
        )
    if release:
        location = hub.resolve(release, sae_id)
        return in_repository(
            hub.repository(location.repo_id, **fetch._asdict()),
            location,
            hub_name=f"{release}/{sae_id}".rstrip("/"),
            known=known,
            offline=fetch.offline,
        )
    place = Path(path).expanduser() if path else EMBEDDED_SAE_DIR
    source, place = local_sae(place, dict(known or {}))
    dialect = detect(source)
    if dialect is None:
        raise unknown_locally(place, source)
    return LocatedSAE(source, dialect, str(place), "", dict(known or {}))


def in_repository(
    repository: hub.Repository,
    location: hub.Location,
    *,
    hub_name: str,
    known: Mapping[str, Any] | None,
    offline: bool,
) -> LocatedSAE:
    """The SAE at a place of a repository.

    Raises:
        NotFoundError: it is not there.
    """
    source = FileSource(
        opener=repository.open,
        local=repository.local,
        names=repository.names,
        path=location.path,
        repo_id=location.repo_id,
        known=dict(location.known) | dict(known or {}),
    )
    if not location.dialect:
        source = belongs_to(source)
    dialect = BY_NAME.get(location.dialect) if location.dialect else detect(source)
    if dialect is None:
        raise unknown_remotely(source)
    located = LocatedSAE(source, dialect, hub_name, repository.commit, dict(known or {}))
    if not _wanted(located) and not offline:
        close = closest(source)
        raise NotFoundError(
            f"{location.repo_id} has no {location.path!r}.",
            code="SAE_NOT_FOUND",
            field="sae_id",
            got=location.path,
            allowed=close,
            hint=f'Call ss.load_sae(release="{location.repo_id}", sae_id="{close[0]}").'
            if close
            else "Check the repository's list of files.",
        )
    return located


def _wanted(located: LocatedSAE) -> list[str]:
    """Names of the files that a load reads."""
    patterns = located.dialect.files(located.source)
    return sorted(
        name
        for name in located.source.names
        if any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
    )


@contextmanager
def advised(located: LocatedSAE) -> Generator[None]:
    """An error in an SAE's files that leaves open what to do says which file to correct, or what
    else to load."""
    try:
        yield
    except (ConfigError, FormatError) as error:
        error.hint = error.hint or _advice(located, error)
        raise


def _advice(located: LocatedSAE, error: SaescopeError) -> str:
    config = next((Path(name).name for name in _wanted(located) if name.endswith(CONFIGS)), "")
    steps = {
        "UNSUPPORTED_ARCHITECTURE": ANOTHER,
        "UNSUPPORTED_DTYPE": f"Save its weights as float32, float16 or bfloat16. {ANOTHER}",
        "FILE_SUSPICIOUS": f"Use files from a source that you trust. {ANOTHER}",
        "REMOTE_CODE_REFUSED": f"Remove trust_remote_code from {config} if the model does not "
        "need it.",
    }
    if error.code in steps:
        return steps[error.code]
    if isinstance(error, FormatError) or not config:
        return f"Get the SAE's files again from where they were published. {ANOTHER}"
    correct = f"Correct {error.field or 'that'} in {config}"
    if located.source.repo_id:
        return f"{correct} of a copy of {located.source.repo_id}, and load its folder. {ANOTHER}"
    return f"{correct}, then load it again."


def _signed(located: LocatedSAE, cfg: SAEConfig) -> SAEConfig:
    """The configuration as the user wants it, with a note of where the SAE came from, which travels
    with it when it is saved."""
    asked = {
        field.name: located.asked[field.name]
        for field in fields(SAEMetadata)
        if field.name in located.asked
    }
    if asked:
        kept = {
            key: value
            for key, value in cfg.metadata.raw.items()
            if _OVERRULED_BY.get(key) not in asked  # a hook that the user names is not looked for
        }
        cfg = replace(cfg, metadata=replace(cfg.metadata, **asked, raw=kept | asked))
    if not located.revision:
        return cfg
    origin = {
        "repo_id": located.source.repo_id,
        "path": located.source.path,
        "revision": located.revision,
        "dialect": located.dialect.name,
    }
    published = {"l0": located.source.known["l0"]} if "l0" in located.source.known else {}
    return replace(
        cfg,
        metadata=replace(cfg.metadata, raw=published | dict(cfg.metadata.raw) | {"source": origin}),
    )
