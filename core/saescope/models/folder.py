"""What transformers sees of a local model: files that were opened and checked, by name, in a
private folder; nothing else can be reached.

transformers opens files by itself and follows what they name: shards of an index, vocabularies,
adapters, links. So configurations are copied, other files are linked to the descriptors that were
checked, and the rest stays outside.
"""

import json
import re
import shutil
import sys
import tempfile
from codecs import BOM_UTF8
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from saescope.errors import ArgumentError, ModelError, ResourceError, disk_is_full
from saescope.fence import CONFIG_BYTES, open_file, read_file, real_path
from saescope.json_text import parse

WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
INDEX_BYTES = 16 << 20
TOKENIZER_BYTES = 128 << 20
"""Gemma 3's tokenizer.json has 33 MB."""
MAX_FILES = 512
"""Each is open while the model is loaded; the largest models have 200 shards."""
MAX_DEPTH = 64
_LIMITS = {".jinja": CONFIG_BYTES} | dict.fromkeys(
    (".json", ".txt", ".model", ".tiktoken", ".bpe", ".vocab", ".spm"), TOKENIZER_BYTES
)
_CONFIGS = {
    *("config.json", "generation_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.json"),
}
_REFERENCE = re.compile(
    r"(_file|_spm|_dir|_option|_dic|(?<!name_or)_path|^vocab|^transformers_weights)$"
)
_TEMPLATES = "additional_chat_templates"


@contextmanager
def staged(path: Path) -> Generator[Path]:
    """A model folder, or a GGUF file, as one that holds only what may be read of it.

    Raises:
        ArgumentError: PATH_NOT_ALLOWED: a file, or one that its index names, lies outside the
            folders that may be read.
        FormatError: FILE_SUSPICIOUS: a file is a pipe, a device, or larger than its kind is.
        ModelError: it needs an adapter, or its configuration is no JSON object.
        ResourceError: DISK_FULL, CANNOT_WRITE: there is no room for copies of its configurations.
    """
    with ExitStack() as stack:
        with _writing():
            private = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="saescope-model-"))
            )
        if not path.is_dir():
            _link(stack, path, private / path.name)
            yield private / path.name
            return
        if (path / ADAPTER).exists():
            raise ModelError(
                f"{path.name!r} holds an adapter ({ADAPTER}), which changes another model.",
                code="UNSUPPORTED_MODEL",
                field="model",
                got=ADAPTER,
                hint="Merge it into its model first (PEFT: merge_and_unload), or remove the file.",
            )
        for file in _files(path):
            _place(stack, file, private / file.relative_to(path))
        check_names(path.name, private)
        yield private


def read_json(path: Path, *, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """Read the object in a JSON file of a model.

    Raises:
        ModelError: MODEL_CONFIG_INVALID: it holds none.
        FileNotFoundError, ArgumentError, FormatError: as `open_file`.
    """
    try:
        content = parse(read_file(path, limit=limit, field="model"))
    except ValueError as error:
        raise _invalid(path, str(error)) from error
    if not isinstance(content, dict):
        raise _invalid(path, "holds no JSON object")
    if _is_deep(content):
        raise _invalid(path, f"is nested more than {MAX_DEPTH} deep")
    return content


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for one in level
            if isinstance(one, dict | list)
            for value in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def check_names(model: str, folder: Path, *, present: bool = True) -> None:
    """That the files which an index names are files of this very folder; and, if they should be
    `present`, that they are there.

    Raises:
        ArgumentError: PATH_NOT_ALLOWED.
        ModelError: FILE_MISSING; MODEL_CONFIG_INVALID.
    """
    if not (folder / INDEX).exists():
        return
    weight_map = read_json(folder / INDEX, limit=INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise _invalid(folder / INDEX, "has no weight_map")
    for name in {str(value) for value in weight_map.values()}:
        if Path(name).name != name or name in ("", "..") or "\\" in name or "\0" in name:
            raise _named(model, INDEX, repr(name))
        if present and not (folder / name).exists():
            raise ModelError(
                f"{model!r} lacks {name}, which its {INDEX} names.",
                code="FILE_MISSING",
                field="model",
                got=name,
                hint="Get the model again.",
            )


def check_references(model: str, name: str, content: Mapping[str, Any]) -> None:
    """That a configuration from the hub names no file of this machine.

    Raises:
        ArgumentError: PATH_NOT_ALLOWED.
    """
    for key, value in _references(content):
        if Path(value).expanduser().exists():
            raise _named(model, name, f"{key}={value!r}")


def _is_reference(key: str, value: object) -> bool:
    """Whether transformers, or a library that it hands arguments on to, would open what stands
    here."""
    return isinstance(value, str) and bool(_REFERENCE.search(key))


def _references(node: object) -> Iterator[tuple[str, str]]:
    """Every name of a file in a configuration, with its key, however deep."""
    if isinstance(node, dict):
        for key, value in cast(dict[str, object], node).items():
            if _is_reference(key, value):
                yield key, str(value)
            yield from _references(value)
    elif isinstance(node, list):
        for value in cast(list[object], node):
            yield from _references(value)


def _without_references(node: Any) -> Any:
    if isinstance(node, dict):
        kept = cast(dict[str, object], node).items()
        return {
            key: _without_references(value) for key, value in kept if not _is_reference(key, value)
        }
    return [*map(_without_references, cast(list[object], node))] if isinstance(node, list) else node


def _files(folder: Path) -> list[Path]:
    """What transformers could read, by name."""
    inside = [*folder.iterdir()]
    if (folder / _TEMPLATES).is_dir():
        inside += (folder / _TEMPLATES).iterdir()
    wanted = [file for file in inside if file.suffix in (WEIGHTS, *_LIMITS) and file.name[0] != "."]
    if len(wanted) > MAX_FILES:
        raise ModelError(
            f"{folder.name!r} holds {len(wanted)} files; a model has at most {MAX_FILES}.",
            code="FILE_SUSPICIOUS",
            field="model",
            got=len(wanted),
            allowed=MAX_FILES,
        )
    return sorted(wanted)


def _place(stack: ExitStack, file: Path, target: Path) -> None:
    try:
        if file.name in _CONFIGS:
            content = json.dumps(_harmless(file))
            with _writing():
                target.write_text(content, encoding="utf-8")
        else:
            target.parent.mkdir(exist_ok=True)
            _link(stack, file, target)
    except FileNotFoundError:  # a link that leads nowhere
        return


def _harmless(file: Path) -> dict[str, Any]:
    """A configuration without what would open another file: absolute paths, of the machine that
    wrote it or worse.

    Raises:
        ArgumentError: PATH_NOT_ALLOWED: a path leads out of the folder, which no program writes.
    """
    content = read_json(file)
    for key, value in _references(content):
        if ".." in value.replace("\\", "/").split("/"):
            raise _named(file.parent.name, file.name, f"{key}={value!r}")
    return _without_references(content)


def _link(stack: ExitStack, file: Path, target: Path) -> None:
    """`target` opens what was opened and checked here: on Linux the very descriptor, elsewhere the
    path that it had."""
    limit = _LIMITS.get(file.suffix)
    opened = stack.enter_context(open_file(file, limit=limit, field="model"))
    if file.suffix == ".json" and opened.read(len(BOM_UTF8)) == BOM_UTF8:
        # neither transformers nor tokenizers read JSON that begins with it
        with _writing(), target.open("wb") as copy:
            shutil.copyfileobj(opened, copy)
        return
    opened.seek(0)
    if sys.platform == "linux" and Path("/proc/self/fd").is_dir():
        target.symlink_to(f"/proc/self/fd/{opened.fileno()}")
        return
    try:
        target.symlink_to(real_path(file))
    except OSError:  # Windows, without the privilege
        with _writing(), target.open("wb") as copy:
            shutil.copyfileobj(opened, copy)


@contextmanager
def _writing() -> Generator[None]:
    try:
        yield
    except OSError as error:
        full = disk_is_full(error)
        raise ResourceError(
            "The folder for temporary files "
            f"{'is full' if full else 'cannot be written to'}: {error.strerror}.",
            code="DISK_FULL" if full else "CANNOT_WRITE",
            hint="Free space there, or set TMPDIR to another folder.",
        ) from error


def _named(model: str, file: str, what: str) -> ArgumentError:
    return ArgumentError(
        f"{file} of {model!r} names a file outside its folder: {what}.",
        code="PATH_NOT_ALLOWED",
        field="model",
        got=what,
        allowed="names of files in the folder",
        hint="Get the model from a source you trust.",
    )


def _invalid(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path.name} of the model {why}.",
        code="MODEL_CONFIG_INVALID",
        field="model",
        got=path.name,
        hint=f"Correct {path.name}, or get the model again.",
    )
