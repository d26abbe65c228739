"""Why a model's files cannot be loaded: what the libraries raise, as an error that names the part,
the cause and the next step."""

import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from saescope.catalogue import models_here
from saescope.errors import ModelError, NotFoundError, OfflineError, SaescopeError, cause_of
from saescope.hub import invalid_config_error
from saescope.models.demands import is_quantized, needs_code
from saescope.models.sizes import INDEX, shards

Part = Literal["config.json", "tokenizer", "weights", "GGUF file"]
MOST_NAMED = 5
"""How many models that are on this machine an error names."""
VOCABULARIES = (
    *("tokenizer.json", "vocab.*", "merges.txt", "tokens.txt", "*.model", "*.tiktoken", "*.spm"),
    *("*.bpe", "*.vocab"),
)


@contextmanager
def reading(
    part: Part, source: str, *, name: str, local: bool, method: str = ""
) -> Generator[None]:
    """What the libraries raise in the block becomes an error that names the part and the cause, and
    how the weights are quantized.

    Raises:
        ModelError, NotFoundError, OfflineError.
    """
    try:
        yield
    except SaescopeError:
        raise
    except BaseException as error:
        if not _is_of_files(error):
            raise
        told = _explain(part, source, name, local, error)
        if method and told.code == "FILE_CORRUPT":
            told = is_quantized(name, method, told.message.split(": ", 1)[-1])
        raise told from error


def require_vocabulary(source: str, name: str) -> None:
    """Raise unless a local folder has a vocabulary: without one some classes make a tokenizer that
    knows no text, in silence."""
    folder = Path(source)
    if folder.is_dir() and not any(next(folder.glob(one), None) for one in VOCABULARIES):
        raise ModelError(
            f"The folder of the model {name!r} has no tokenizer: none of "
            f"{', '.join(VOCABULARIES)}.",
            code="FILE_MISSING",
            field="model",
            got=name,
            allowed="tokenizer.json",
            hint="Get tokenizer.json and tokenizer_config.json of the model too.",
        )


def _is_of_files(error: BaseException) -> bool:
    """Whether it is what libraries raise of files that are torn or contradict themselves:
    tokenizers raises a bare Exception."""
    from safetensors import SafetensorError

    kinds = (
        *(OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
        *(RuntimeError, ImportError, AssertionError, struct.error, SafetensorError),
        invalid_config_error(),
    )
    bare = type(error) is Exception or type(error).__name__ == "PanicException"
    return bare or isinstance(error, kinds)


def _explain(
    part: Part, source: str, name: str, local: bool, error: BaseException
) -> SaescopeError:
    whole, text = str(error), cause_of(error, replace={source: name})
    part = "config.json" if isinstance(error, ArithmeticError) else part
    if "requires you to execute" in whole or "custom code which must be executed" in whole:
        return needs_code(name, f"transformers has no {part} of that kind")
    if (
        "does not recognize this architecture" in whole
        or "Unrecognized configuration class" in whole
    ):
        return ModelError(
            f"The model {name!r} is of an architecture that saescope cannot load: {text}",
            code="UNSUPPORTED_MODEL",
            field="model",
            got=name,
            hint="Use a causal language model that both transformers and transformer-lens hold.",
        )
    if not local and (unreached := _of_the_hub(name, error)):
        return unreached
    if part == "config.json":
        return ModelError(
            f"No model can be built from config.json of {name!r}: {text}",
            code="MODEL_CONFIG_INVALID",
            field="model",
            got=name,
            hint="Get config.json again.",
        )
    if isinstance(error, FileNotFoundError) or "no file named" in whole:
        return ModelError(
            f"A file of the model {name!r} is missing: {text}",
            code="FILE_MISSING",
            field="model",
            got=name,
            hint="Get the whole folder of the model again.",
        )
    torn = _torn(Path(source)) if local and part == "weights" else ""
    return ModelError(
        f"The {part} of the model {name!r} cannot be read: {f'{torn}: ' if torn else ''}{text}",
        code="FILE_CORRUPT",
        field="model",
        got=torn or name,
        hint=f"Get {torn or f'the {part}'} again.",
    )


def _torn(folder: Path) -> str:
    """The first file of weights whose header does not describe its bytes, or an index that is no
    list of files."""
    from safetensors import SafetensorError, safe_open

    index = folder / INDEX
    try:
        shards(index.read_bytes() if index.exists() else b'{"weight_map": {}}')
    except ModelError:
        return index.name
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError):
            return file.name
    return ""


def _of_the_hub(name: str, error: BaseException) -> SaescopeError | None:
    causes = (error, error.__cause__, error.__context__)
    names = {type(cause).__name__ for cause in causes if cause}
    if names & {"RepositoryNotFoundError", "GatedRepoError", "HFValidationError"}:
        return NotFoundError(
            f"The hub has no model {name!r} (or it is private or gated).",
            code="MODEL_NOT_FOUND",
            field="model",
            got=name,
            hint="Check the name; for a private or gated model set HF_TOKEN.",
        )
    unreachable = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError"}
    if (
        names & {*unreachable, "ConnectTimeout"}
        or "couldn't connect" in str(error)
        or "cached files" in str(error)
    ):
        here = models_here()[:MOST_NAMED]
        return OfflineError(
            f"{name} is not cached and the hub cannot be reached.",
            got=name,
            hint="Connect to the network, or use a local folder: "
            'ss.load_model("/path/to/folder"); ss.load_model() alone needs no hub. '
            f"Cached here: {', '.join(here) or 'no other model'}.",
            facts={"model": name, "here": here},
        )
    return None
