"""Loading a language model: hub name, local folder, GGUF file, or the embedded default. The only
place that imports transformers."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import torch

from saescope.cancel import stop_if_cancelled
from saescope.devices import DTYPES, pick_device, pick_dtype
from saescope.embedded import EMBEDDED_HANDLE, EMBEDDED_MODEL, WHEEL, model_dir
from saescope.errors import ModelError, NotFoundError
from saescope.fence import check_regular, present, real_path
from saescope.hub import Fetch, hub_answers
from saescope.models.boot import boot
from saescope.models.checked import check_fits, check_gguf_file, checked
from saescope.models.demands import (
    check_decoder,
    check_demands,
    has_packed_tensors,
    is_quantized,
    quantization,
)
from saescope.models.estimate import check_counts
from saescope.models.failures import reading, require_vocabulary
from saescope.models.folder import read_json
from saescope.models.language_model import LanguageModel
from saescope.models.partial import complete, guard, layers_below, read_class, without_later
from saescope.models.prepare import prepare
from saescope.models.sizes import official_name
from saescope.models.tokens import Tokenizer, check_tokenizer
from saescope.models.unpacked import is_unpacked, unpack, unpacked_folder
from saescope.progress import Say

_reading = threading.Lock()


class Fetching(TypedDict, total=False):
    """The keywords that say where a model's files come from."""

    revision: str
    """A branch, tag or commit on the hub; main if none is named."""
    offline: bool
    """Whether only what is here already is taken."""
    progress: Say | None
    """Is told of downloads and of what is being loaded."""


class _Amount(NamedTuple):
    """The dtype of a model to be read, and how many of its first layers; None for all."""

    dtype: str
    n_layers: int | None


class _ReadModel(NamedTuple):
    """What came of the files: with warnings about them, and the number of layers that have weights;
    None for all."""

    model: Any
    tokenizer: Any
    notes: tuple[str, ...] = ()
    n_layers: int | None = None


class _ModelFiles(NamedTuple):
    """The place of a model's files, and its name."""

    source: str
    local: bool
    name: str
    handle: str
    revision: str
    identities: frozenset[str]


def load_model(
    name_or_path: str | Path = EMBEDDED_HANDLE,
    *,
    device: str = "auto",
    dtype: str = "auto",
    up_to: str | Sequence[str] = (),
    **files: Unpack[Fetching],
) -> LanguageModel:
    """The model of a hub name, a local folder or a GGUF file; without a name the embedded one. With
    `up_to`, a hook or several, the weights of later layers are not read: enough to record
    activations there, to train and to index; a forward pass that goes on says what to do.

    Raises:
        NotFoundError, OfflineError: it is not there, or not here and the network is not to be used.
        ModelError: its files are torn, need remote code, or are of an architecture that
            transformer-lens does not hold.
    """
    where, fetch = pick_device(device), Fetch(**files)
    with present(Path(name_or_path).name, field="model"):
        place = _locate(name_or_path, fetch)
    if not (place.local or hub_answers()):
        fetch = fetch._replace(offline=True)
    if fetch.progress:
        fetch.progress(f"loading {place.name}")
    with present(place.name, field="model"), _one_at_a_time(), _readable(place, fetch) as source:
        n_layers = layers_below([up_to] if isinstance(up_to, str) else up_to)
        read = _read(place._replace(source=source), where, _Amount(dtype, n_layers), fetch)
        moved = read.model._apply(lambda x: x if x.is_meta else x.to(where))
        return _wrap(place, read._replace(model=_in_memory(moved)))


@contextmanager
def _readable(place: _ModelFiles, fetch: Fetch) -> Generator[str]:
    """What transformers may read; of a GGUF file the folder that it is unpacked to, where that can
    be kept."""
    with checked(place.source, fetch, local=place.local) as source:
        folder = _unpacked(Path(source), place, fetch) if source.endswith(".gguf") else None
        if folder is None:
            yield source
            return
        with checked(str(folder), fetch, local=True) as unpacked:
            yield unpacked


def _unpacked(path: Path, place: _ModelFiles, fetch: Fetch) -> Path | None:
    folder = unpacked_folder(path)
    if is_unpacked(folder):
        return folder
    with reading("GGUF file", str(path), name=place.name, local=True):
        n_weights = check_gguf_file(path, place.name)
        return unpack(path, folder, name=place.name, n_weights=n_weights, say=fetch.progress)


def _in_memory(model: Any) -> Any:
    """The model with a copy of each weight that may lie in a mapped file, tied ones still tied.

    Where nothing is to be converted, transformers maps the file: whoever overwrites it would change
    the loaded model, and whoever shortens it would kill the process.
    """
    copies: dict[tuple[Any, ...], torch.Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and not tensor.is_meta:
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if place not in copies:
                copies[place] = tensor.detach().clone()
            tensor.data = copies[place]
    return model


@contextmanager
def _one_at_a_time() -> Generator[None]:
    """While transformers loads, it patches torch for the whole process: of two loads at once the
    later leaves the patch behind.

    A cancelled load goes on in its thread until transformers gives it back.
    """
    stop_if_cancelled()
    while not _reading.acquire(timeout=0.1):
        stop_if_cancelled()
    try:
        yield
    finally:
        _reading.release()


def canonical_name(name: str) -> str:
    """One spelling for a model's many names: transformer-lens's aliases resolved, lower case,
    without the organisation."""
    return official_name(name).rsplit("/", 1)[-1].lower()


def _locate(name_or_path: str | Path, fetch: Fetch) -> _ModelFiles:
    name = str(name_or_path)
    if name == EMBEDDED_HANDLE:
        ids = frozenset({canonical_name(EMBEDDED_MODEL)})
        return _ModelFiles(
            str(prepare(fetch.progress, offline=fetch.offline)),
            True,
            EMBEDDED_MODEL,
            EMBEDDED_HANDLE,
            f"{WHEEL} (Q4_1, dequantised)",
            ids,
        )
    path = Path(name).expanduser()
    if path.exists() and real_path(path) == real_path(model_dir()):
        return _locate(EMBEDDED_HANDLE, fetch)
    if path.exists():
        _check_local(path)
        return _ModelFiles(
            str(path),
            True,
            path.name,
            path.stem.lower() if path.is_file() else path.name.lower(),
            "local files",
            _named_identity(path),
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise NotFoundError(
            f"There is no model at {name!r}.",
            code="MODEL_NOT_FOUND",
            field="model",
            got=name,
            hint="Give a folder, a .gguf file or a hub name.",
        )
    official = official_name(name)
    return _ModelFiles(
        official,
        False,
        official,
        official.rsplit("/", 1)[-1].lower(),
        fetch.revision or "main",
        frozenset({canonical_name(official)}),
    )


def _named_identity(path: Path) -> frozenset[str]:
    config = path / "config.json"
    name = read_json(config).get("_name_or_path") if config.exists() else None
    return frozenset({canonical_name(name)}) if name and isinstance(name, str) else frozenset()


def _check_local(path: Path) -> None:
    check_regular(path, field="model", folders=True)
    if not path.is_dir():
        if path.suffix != ".gguf":
            raise ModelError(
                f"{path.name!r} is no model: a file must be a GGUF.",
                code="MODEL_NOT_FOUND",
                field="model",
                got=path.name,
                allowed="a folder or .gguf",
            )
        return
    try:
        check_counts(read_json(path / "config.json"))
    except FileNotFoundError:
        raise ModelError(
            f"The folder {path.name!r} has no config.json.",
            code="MODEL_CONFIG_INVALID",
            field="model",
            hint="Give a Hugging Face model folder.",
        ) from None
    if not list(path.glob("*.safetensors")) and (
        pickles := [*path.glob("*.bin"), *path.glob("*.pt")]
    ):
        raise ModelError(
            f"{pickles[0].name} is a pickle: loading it can run code, so saescope does not.",
            code="PICKLE_REFUSED",
            field="model",
            hint="Convert the model to safetensors in an environment that you trust.",
        )


def _read(place: _ModelFiles, where: torch.device, want: _Amount, fetch: Fetch) -> _ReadModel:
    from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
    from transformers.utils import logging as hf_logging

    from saescope.models.gguf import read_gguf

    hf_logging.disable_progress_bar()
    of = partial(reading, source=place.source, name=place.name, local=place.local)
    if place.source.endswith(".gguf"):
        with of("GGUF file"):
            model, tokenizer = read_gguf(Path(place.source))
            check_tokenizer(tokenizer)
        model.to(pick_dtype(want.dtype, where, torch.float32))
        return _ReadModel(model, tokenizer, n_layers=without_later(model, want.n_layers))
    common: dict[str, Any] = {
        "local_files_only": fetch.offline or place.local,
        "trust_remote_code": False,
    }
    if fetch.revision and not place.local:
        common["revision"] = fetch.revision
    with of("config.json"):
        stored_config, _ = PretrainedConfig.get_config_dict(place.source, **common)
        check_demands(stored_config, place.name)
        config = AutoConfig.from_pretrained(place.source, **common)
        check_decoder(config, place.name)
    stored = DTYPES.get(
        str(getattr(config, "dtype", None) or "float32").removeprefix("torch."), torch.float32
    )
    dtype = pick_dtype(want.dtype, where, stored)
    with of("config.json"):
        size: dict[str, Any] = {"name": place.name, "dtype": dtype, "n_layers": want.n_layers}
        check_fits(config, place.source, local=place.local, **size)
    require_vocabulary(place.source, place.name)
    with of("tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(place.source, **common)
        check_tokenizer(tokenizer)
    method = quantization(stored_config)
    with of("weights", method=method):
        kind, config = read_class(config, want.n_layers)
        options = common | {"config": config, "dtype": dtype}
        model, surplus = _read_weights(place, method, kind, **options)
        n_layers = None if want.n_layers is None else complete(model)
    notes = _notes(surplus if n_layers is None else _unplaced(surplus, model))
    return _ReadModel(model.eval(), tokenizer, notes, n_layers)


def _read_weights(
    place: _ModelFiles, method: str, kind: Any, **options: Any
) -> tuple[Any, list[str]]:
    """The model, and the tensors of its files that it has no place for."""
    loaded: Any = kind.from_pretrained(
        place.source,
        output_loading_info=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # told below, with their shapes
        # as transformer-lens has it: Falcon with alibi differs in sdpa
        attn_implementation="eager",
        **options,
    )
    model, info = loaded
    missing, wrong = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if (missing or wrong) and (method or has_packed_tensors(info["unexpected_keys"])):
        raise is_quantized(place.name, method or "a method that config.json does not name")
    if wrong:
        tensor, there, wanted = wrong[0]
        raise ModelError(
            f"{tensor} of the model {place.name!r} has the shape {list(there)}; "
            f"config.json makes it {list(wanted)}.",
            code="SHAPE_MISMATCH",
            field="model",
            got=list(there),
            allowed=list(wanted),
            hint="Get config.json and the weights again: they are not of one model.",
        )
    if missing:  # transformers fills them with random numbers
        raise ModelError(
            f"The files of the model {place.name!r} lack {len(missing)} of its "
            f"tensors, first {missing[0]!r}.",
            code="FILE_CORRUPT",
            field="model",
            got=place.name,
            hint="Get the model again.",
        )
    return model, sorted(info["unexpected_keys"])


def _unplaced(surplus: list[str], model: Any) -> list[str]:
    """Those that are not of a later layer."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    later = {name for name, tensor in tensors if tensor.is_meta}
    return [name for name in surplus if name not in later and f"model.{name}" not in later]


def _notes(surplus: list[str]) -> tuple[str, ...]:
    """A warning where files hold more than the configuration has a place for, as when it names
    fewer layers."""
    if not surplus:
        return ()
    return (
        f"The model's files hold {len(surplus)} tensors that config.json has no place "
        f"for, first {surplus[0]!r}: they are not used. If "
        "they belong to this model, config.json is of another.",
    )


def _wrap(place: _ModelFiles, read: _ReadModel) -> LanguageModel:
    model = read.model
    n_embedded = int(model.get_input_embeddings().weight.shape[0])
    bridge, fires = boot(place.name, model, read.tokenizer, read.n_layers)
    n_ctx = int(getattr(model.config, "max_position_embeddings", 0) or bridge.cfg.n_ctx)
    revision = str(getattr(model.config, "_commit_hash", None) or place.revision)
    wrapped = LanguageModel(
        bridge,
        Tokenizer(read.tokenizer, n_ctx, n_embedded),
        name=place.name,
        handle=place.handle,
        revision=revision,
        identities=place.identities,
    )
    wrapped.notes, wrapped.fires = read.notes, fires
    if read.n_layers is not None:
        wrapped.n_loaded = read.n_layers
        guard(bridge, read.n_layers, wrapped.more_needed)
    return wrapped
