"""An index on disk: `<home>/indexes/<weights hash>/<corpus>/` with manifest.json,
arrays.safetensors and texts.db."""

import lzma
import os
import shutil
import zipfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saescope.activations import EMBEDDED
from saescope.embedded import EMBEDDED_HANDLE, EMBEDDED_SAE_DIR
from saescope.errors import FormatError, cannot_write
from saescope.features.index.accumulate import Accumulator
from saescope.features.index.config import IndexConfig
from saescope.features.index.feature_index import ARRAYS, FeatureIndex
from saescope.features.index.manifest import IndexManifest, hash_file, read_manifest, write_manifest
from saescope.features.index.texts import FILE as TEXTS
from saescope.features.index.texts import ContextLog
from saescope.models import LanguageModel, has_fingerprint, model_fingerprint
from saescope.names import home
from saescope.progress import Say, silent
from saescope.saes import SAE
from saescope.splice import read_hook

HASH_CHARS = 16
_OLD = ".tmp-old-"
PACKED = EMBEDDED_SAE_DIR.parent / "index.zip"
"""The packaged SAE's index; unpacked when it is first asked for."""


class IndexOrigin(NamedTuple):
    """The SAE, model and text that the numbers of an index belong to."""

    model: LanguageModel
    dataset: str
    n_tokens: int
    """Positions read that are not left out for their place or token; each SAE's sinks are among
    them."""
    n_contexts: int
    cfg: IndexConfig


def index_root() -> Path:
    """The folder in which indexes are kept."""
    return home() / "indexes"


def folder_of(weights_hash: str, root: Path | None = None) -> Path:
    """The folder in which the indexes of one SAE are kept, each in a folder of its own."""
    return (root or index_root()) / weights_hash[:HASH_CHARS]


def write_index(
    folder: Path, sae: SAE, part: Accumulator, log: ContextLog, origin: IndexOrigin
) -> FeatureIndex:
    """Write what a pass gathered; the folder is complete or not there.

    Raises:
        ResourceError: DISK_FULL, or the folder cannot be written to.
    """
    aside = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        arrays = _arrays(part, log, origin)
        wanted = torch.cat(
            [array.flatten() for name, array in arrays.items() if name.endswith(".contexts")]
        ).unique()
        save_file(arrays, aside / ARRAYS)
        log.write(aside / TEXTS, wanted[wanted >= 0].tolist(), origin.model.token_text)
        write_manifest(aside, _manifest(aside, sae, part, origin))
        _put(aside, folder)
    except (OSError, SafetensorError) as error:
        again = (
            "Free space there or make it writable, then run it again: it continues from its "
            "last checkpoint."
        )
        raise cannot_write("The index", folder.parent, error, hint=again) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return FeatureIndex.open(folder)


def find_index(
    sae: SAE,
    model: LanguageModel | None = None,
    *,
    root: Path | None = None,
    say: Say = silent,
) -> FeatureIndex | None:
    """The index of this SAE on this model with most tokens, the newest of equals; `say` hears why
    one was passed over."""
    place = folder_of(sae.weights_hash, root)
    _bring_back(place)
    unpack(place.parent, sae.weights_hash)
    candidates = list[tuple[IndexManifest, Path]]()
    for folder in sorted(path for path in place.glob("[!.]*") if path.is_dir()):
        manifest = _read(folder, sae.weights_hash, say)
        if manifest is None:
            continue
        wrong = _unfit(manifest, sae, model)
        if wrong:
            say(f"An index of {manifest.dataset} is not used: {wrong}.")
        else:
            candidates.append((manifest, folder))
    best_first = sorted(candidates, key=lambda pair: _worth(pair[0]), reverse=True)
    opened = (_open(folder, sae.weights_hash, say) for _, folder in best_first)
    best = next((index for index in opened if index), None)  # no other is hashed
    if best is not None and model is not None:
        best.doubts = _doubts(best, model)
    return best


def _worth(manifest: IndexManifest) -> tuple[int, str]:
    """Rank an index by the positions read, those left out as sinks as well: an index made anew
    comes before its old form."""
    return manifest.n_tokens + manifest.n_sinks, manifest.created


def _read(folder: Path, weights_hash: str, say: Say) -> IndexManifest | None:
    try:
        return read_manifest(folder)
    except FormatError:
        index = _open(folder, weights_hash, say)
        return index and index.manifest


def _open(folder: Path, weights_hash: str, say: Say) -> FeatureIndex | None:
    """An index that is whole; a damaged one stays where it is, unless it is the packed one, which
    is unpacked again."""
    try:
        return FeatureIndex.open(folder)
    except FormatError as error:
        say(error.message)
    if not _is_packed(folder, weights_hash):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    unpack(folder.parent.parent, weights_hash, PACKED)
    with suppress(FormatError):
        return FeatureIndex.open(folder)


def _unfit(manifest: IndexManifest, sae: SAE, model: LanguageModel | None) -> str:
    if manifest.weights_hash != sae.weights_hash:
        return "it is of other weights"
    if manifest.hook_name != read_hook(sae):
        return f"it was made at {manifest.hook_name}"
    if model is None:
        return ""
    is_same = _is_same(manifest, model)
    if is_same:
        return ""
    if manifest.model != model.name and not set(manifest.settings["identities"]) & model.identities:
        return f"it was made with the model {manifest.model}, not {model.name}"
    return (
        f"it was made with another model called {manifest.model}, whose weights, configuration or "
        "tokenizer are not those of this one"
        if is_same is False
        else ""
    )


def _is_same(manifest: IndexManifest, model: LanguageModel) -> bool | None:
    """Whether the model is that of the index; None where fingerprints do not tell: of the same
    weights in another dtype it is another one."""
    told = manifest.model_fingerprint and manifest.settings["dtype"] == _dtype(model)
    return has_fingerprint(model, manifest.model_fingerprint) if told else None


def _doubts(index: FeatureIndex, model: LanguageModel) -> list[str]:
    """A warning where the name of the model alone speaks for an index; the packed one is of the
    packaged model, whose file is verified when it is fetched."""
    manifest = index.manifest
    if _is_same(manifest, model) is not None or (
        model.handle == EMBEDDED_HANDLE and _is_packed(index.folder, manifest.weights_hash)
    ):
        return []
    why = (
        "does not say which weights its model had"
        if not manifest.model_fingerprint
        else f"has its model in {manifest.settings['dtype']}, not {_dtype(model)}"
        if manifest.settings["dtype"] != _dtype(model)
        else "was made with more of its model's layers than are loaded"
    )
    return [
        f"The index of {manifest.dataset} {why}: whether the model is this one, and not only of "
        "the same name, is not known. ss.index_features rebuilds it."
    ]


def _dtype(model: LanguageModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _arrays(part: Accumulator, log: ContextLog, origin: IndexOrigin) -> dict[str, Tensor]:
    """The arrays as they are kept: contexts by number, everything on the CPU."""
    statistics = {f"statistics.{name}": array for name, array in part.statistics.arrays().items()}
    sample = {
        f"sample.{name}": array
        for name, array in part.sample.arrays(
            len(part.statistics.maxima), origin.cfg.context_size
        ).items()
    }
    examples = {f"examples.{name}": array for name, array in part.examples.state_dict().items()}
    arrays = statistics | examples | sample | {"special_ids": origin.model.tokenizer.special_ids}
    for name in [name for name in arrays if name.endswith(".contexts")]:
        hashes = arrays[name].cpu()
        empty = (
            arrays[name.replace("contexts", "values")].cpu() == 0
            if name != "sample.contexts"
            else torch.zeros_like(hashes).bool()
        )
        arrays[name] = (
            log.numbers(hashes.flatten()).reshape(hashes.shape).masked_fill(empty, -1).int()
        )
    return {name: array.cpu().contiguous() for name, array in arrays.items()}


def _manifest(folder: Path, sae: SAE, part: Accumulator, origin: IndexOrigin) -> IndexManifest:
    cfg, n_counted = origin.cfg, part.statistics.n_tokens
    files = sorted(folder.iterdir())
    kept = ("n_top", "n_range", "n_quiz", "quiz_share", "sample_tokens", "prepend_bos")
    return IndexManifest(
        weights_hash=sae.weights_hash,
        d_sae=sae.cfg.d_sae,
        hook_name=read_hook(sae),
        model=origin.model.name,
        model_fingerprint=model_fingerprint(origin.model),
        dataset=_public(origin.dataset),
        n_tokens=n_counted,
        n_sinks=origin.n_tokens - n_counted,
        n_contexts=origin.n_contexts,
        context_size=cfg.context_size,
        seed=cfg.seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={name: getattr(cfg, name) for name in kept}
        | {
            "identities": sorted(origin.model.identities),
            "sink_factor": origin.model.sink_factor,
            "dtype": _dtype(origin.model),
        },
        files={path.name: path.stat().st_size for path in files},
        sha256={path.name: hash_file(path) for path in files},
    )


def _public(dataset: str) -> str:
    """A dataset without the folders of this machine."""
    return dataset if dataset == EMBEDDED or dataset.startswith("hf:") else Path(dataset).name


def _put(aside: Path, folder: Path) -> None:
    for path in aside.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    if folder.exists():
        old = folder.with_name(f"{_OLD}{folder.name}-{os.getpid()}")
        folder.rename(old)
        try:
            aside.rename(folder)
        except OSError:
            _bring_back(folder.parent)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.rename(folder)


def _bring_back(place: Path) -> None:
    """An index that was moved aside for a newer one, which a kill or a failing disk kept from
    coming."""
    for old in place.glob(f"{_OLD}*"):
        folder = place / old.name.removeprefix(_OLD).rpartition("-")[0]
        if not folder.exists():
            with suppress(OSError):
                old.rename(folder)


def unpack(root: Path, weights_hash: str, file: Path = PACKED) -> None:
    """The packed index below `root`, once, if it is of these weights."""
    of, key = _packed_key(file)
    folder = root / of / key
    if of != weights_hash[:HASH_CHARS] or folder.is_dir():
        return
    aside = folder.with_name(f".tmp-{key}-{os.getpid()}")
    # A damaged archive, a full disk, or another process was faster: what is not there is not found.
    with suppress(OSError, *_ZIP_ERRORS), zipfile.ZipFile(file) as archive:
        archive.extractall(aside)
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


_ZIP_ERRORS = (zipfile.BadZipFile, lzma.LZMAError, EOFError, ValueError, NotImplementedError)
"""What a damaged archive raises."""


def _is_packed(folder: Path, weights_hash: str) -> bool:
    return _packed_key(PACKED) == (weights_hash[:HASH_CHARS], folder.name)


def _packed_key(file: Path) -> tuple[str, str]:
    """The hash of the weights that the packed index is of, shortened, and the name of its folder;
    empty where there is none that can be read."""
    with suppress(OSError, *_ZIP_ERRORS), zipfile.ZipFile(file) as archive:
        of, key = archive.comment.decode().split("/")
        return of, key
    return "", ""
