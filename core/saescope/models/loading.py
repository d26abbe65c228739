"""Loading a language model: hub name, local folder, GGUF file, or the embedded default. The only place that imports transformers."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saescope.cancel import checkpoint
from saescope.devices import DTYPES, pick_device, pick_dtype
from saescope.embedded import EMBEDDED_HANDLE, EMBEDDED_MODEL, WHEEL, model_dir
from saescope.errors import ModelError, NotFoundError, OfflineError, SaescopeError
from saescope.hub import invalid_config_error
from saescope.models.boot import boot
from saescope.models.language_model import LanguageModel
from saescope.models.prepare import prepare
from saescope.models.sizes import official_name
from saescope.models.tokens import Tokenizer


class _Place(NamedTuple):
    """Where a model's files are, and what it is called."""

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
    revision: str = "",
    offline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> LanguageModel:
    """The model of a hub name, a local folder or a GGUF file; without a name the embedded one.

    Raises:
        NotFoundError, OfflineError: it is not there, or not here and the network is not to be used.
        ModelError: its files are torn, need remote code, or are of an architecture that transformer-lens does not hold.
    """
    where = pick_device(device)
    place = _locate(name_or_path, revision, offline, progress)
    if progress:
        progress(f"loading {place.name}")
    checkpoint()
    try:
        model, tokenizer = _read(place, where, dtype, revision, offline)
    except SaescopeError:
        raise
    except _unreadable() as error:
        raise _translate(place, error) from error
    return _wrap(place, model.to(where), tokenizer)


def canonical_name(name: str) -> str:
    """One spelling for a model's many names: transformer-lens's aliases resolved, lower case, without the organisation."""
    return official_name(name).rsplit("/", 1)[-1].lower()


def _locate(
    name_or_path: str | Path, revision: str, offline: bool, progress: Callable[[str], None] | None
) -> _Place:
    name = str(name_or_path)
    if name == EMBEDDED_HANDLE:
        ids = frozenset({canonical_name(EMBEDDED_MODEL)})
        return _Place(
            str(prepare(progress, offline=offline)),
            True,
            EMBEDDED_MODEL,
            EMBEDDED_HANDLE,
            f"{WHEEL} (Q4_1, dequantised)",
            ids,
        )
    path = Path(name).expanduser()
    if path.exists() and path.resolve() == model_dir().resolve():
        return _locate(EMBEDDED_HANDLE, revision, offline, progress)
    if path.exists():
        _check_local(path)
        return _Place(
            str(path),
            True,
            path.name,
            path.stem.lower() if path.is_file() else path.name.lower(),
            "local files",
            _said_identity(path),
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
    return _Place(
        official,
        False,
        official,
        official.rsplit("/", 1)[-1].lower(),
        revision or "main",
        frozenset({canonical_name(official)}),
    )


def _said_identity(path: Path) -> frozenset[str]:
    config = path / "config.json"
    said = (
        json.loads(config.read_text(encoding="utf-8")).get("_name_or_path")
        if config.is_file()
        else None
    )
    return frozenset({canonical_name(said)}) if said and isinstance(said, str) else frozenset()


def _check_local(path: Path) -> None:
    if path.is_file():
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
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"The folder {path.name!r} has no config.json.",
            code="MODEL_CONFIG_INVALID",
            field="model",
            hint="Give a Hugging Face model folder.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"config.json of {path.name!r} is no valid JSON.",
            code="MODEL_CONFIG_INVALID",
            field="model",
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"config.json of {path.name!r} holds no JSON object.",
            code="MODEL_CONFIG_INVALID",
            field="model",
        )
    if "auto_map" in config:
        raise ModelError(
            f"{path.name!r} wants to run its own code (auto_map in config.json).",
            code="REMOTE_CODE_REFUSED",
            field="model",
            hint="Use a model that transformers holds natively.",
        )
    if not list(path.glob("*.safetensors")) and (
        pickles := [*path.glob("*.bin"), *path.glob("*.pt")]
    ):
        raise ModelError(
            f"{pickles[0].name} is a pickle: loading it can run code, so saescope does not.",
            code="PICKLE_REFUSED",
            field="model",
            hint="Convert the model to safetensors in an environment that you trust.",
        )


def _read(
    place: _Place, where: torch.device, dtype: str, revision: str, offline: bool
) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    from saescope.models.gguf import read_gguf

    hf_logging.disable_progress_bar()
    if place.source.endswith(".gguf"):
        model, tokenizer = read_gguf(Path(place.source))
        return model.to(pick_dtype(dtype, where, torch.float32)), tokenizer
    common: dict[str, Any] = {
        "local_files_only": offline or place.local,
        "trust_remote_code": False,
    }
    if revision and not place.local:
        common["revision"] = revision
    config = AutoConfig.from_pretrained(place.source, **common)
    stored = DTYPES.get(
        str(getattr(config, "dtype", None) or "float32").removeprefix("torch."), torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(place.source, **common)
    common |= {
        "dtype": pick_dtype(dtype, where, stored),
        "use_safetensors": True,
        "attn_implementation": "eager",  # as transformer-lens has it: Falcon with alibi differs in sdpa
    }
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        place.source, output_loading_info=True, **common
    )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):  # transformers fills them with random numbers
        raise ModelError(
            f"The files of {place.name!r} lack {len(missing)} of the model's tensors, first {missing[0]!r}.",
            code="FILE_CORRUPT",
            field="model",
            got=place.name,
            hint="Get the model again.",
        )
    return model.eval(), tokenizer


def _unreadable() -> tuple[type[Exception], ...]:
    """What the libraries that read a model's files raise when these are torn or contradict themselves."""
    from safetensors import SafetensorError

    own = (SafetensorError, invalid_config_error(), struct.error)
    return (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        RuntimeError,
        ImportError,
        *own,
    )


def _wrap(place: _Place, model: Any, tokenizer: Any) -> LanguageModel:
    n_embedded = int(model.get_input_embeddings().weight.shape[0])
    bridge = boot(place.name, model, tokenizer)
    n_ctx = int(getattr(model.config, "max_position_embeddings", 0) or bridge.cfg.n_ctx)
    revision = str(getattr(model.config, "_commit_hash", None) or place.revision)
    return LanguageModel(
        bridge,
        Tokenizer(tokenizer, n_ctx, n_embedded),
        name=place.name,
        handle=place.handle,
        revision=revision,
        identities=place.identities,
    )


def _translate(place: _Place, error: Exception) -> SaescopeError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "does not recognize this architecture" in text or "Unrecognized configuration class" in text:
        return ModelError(
            f"{place.name!r} is of an architecture that saescope cannot load: {text}",
            code="UNSUPPORTED_MODEL",
            field="model",
            got=place.name,
            hint="Use a causal language model that both transformers and transformer-lens hold.",
        )
    if place.local:
        return ModelError(
            f"The files of {place.name!r} cannot be read: {text}",
            code="FILE_CORRUPT",
            field="model",
            got=place.name,
            hint="Get the model again.",
        )
    names = {
        cause.__class__.__name__ for cause in (error, error.__cause__, error.__context__) if cause
    }
    if names & {"RepositoryNotFoundError", "GatedRepoError", "HFValidationError"}:
        return NotFoundError(
            f"The hub has no model {place.name!r} (or it is private or gated).",
            code="MODEL_NOT_FOUND",
            field="model",
            got=place.name,
            hint="Check the name; for a private or gated model set HF_TOKEN.",
        )
    if (
        names
        & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout"}
        or "couldn't connect" in str(error)
        or "cached files" in str(error)
    ):
        return OfflineError(
            f"{place.name} is not cached and the hub cannot be reached.",
            got=place.name,
            hint='Connect to the network, or use a local folder: load_sae(..., model="/path/to/folder"); load_sae() alone needs no hub.',
        )
    return ModelError(f"{place.name} cannot be loaded: {text}", field="model", got=place.name)
