"""What the dialects share: how the tensors on disk become ours, and what is said of the SAE's place
in a model."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saescope.errors import ConfigError, FormatError
from saescope.formats.npz import open_npz, read_npz_header
from saescope.formats.pickles import open_pickle
from saescope.formats.source import FileSource
from saescope.formats.weights import TensorInfo, Weights, open_weights, read_header
from saescope.saes import ARCHITECTURES, SAEConfig, SAEMetadata

Fix = Callable[[dict[str, Tensor]], None]
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SHORT = {name: short for short, name in _DTYPES.items()}
_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}
_NOT_METADATA = {"gate", "norm_scaling_factor"}
MOST = torch.finfo(torch.float32).max
"""The largest number that a configuration may say: what it scales is float32."""


class Stored(NamedTuple):
    """The place of one of our tensors on disk."""

    tensor: str
    turned: bool = False
    """It lies there as the transpose of the field's shape (a torch.nn.Linear's weight)."""
    shape: tuple[int, ...] | None = None
    """Its shape on disk, where that is neither ours nor our transpose."""
    sum_from: int | None = None
    """The decoders of a cross-layer transcoder: summed from this layer on."""


class Widths(NamedTuple):
    """The widths of an SAE, and the dtype that its weights are stored in."""

    d_in: int
    d_sae: int
    dtype: str

    @classmethod
    def of(cls, source: FileSource, encoder: str) -> "Widths":
        """Read off the header of the file, where the encoder lies as a torch.nn.Linear's weight."""
        header = header_of(source, source.path)
        d_sae, d_in = matrix(source.path, header, encoder)
        return cls(d_in, d_sae, stored_dtype(header, encoder))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make an SAE of a weights file."""

    cfg: SAEConfig
    file: str
    stored: Mapping[str, Stored]
    """Our name -> where it is on disk. What is missing here, `fix` adds."""
    ignored: Collection[str] = ()
    """Patterns of tensors on disk that the SAE does not need."""
    fix: Fix = field(default=lambda _: None)
    """What remains to be done to the tensors, in place."""
    other: Mapping[str, str] = field(default_factory=dict[str, str])
    """Disk name of a tensor -> the file that it is in, if not `file`."""

    def infos(self) -> dict[str, TensorInfo]:
        """The shape and dtype of each tensor as it ends up."""
        shapes = ARCHITECTURES[self.cfg.architecture][1].shapes(self.cfg)
        return {name: TensorInfo(shape, _SHORT[self.cfg.dtype]) for name, shape in shapes.items()}

    def check(self, header: Mapping[str, TensorInfo], file: str) -> None:
        """Raise unless the file holds exactly the tensors that it should, in the shapes that follow
        from the configuration.

        Raises:
            FormatError: SHAPE_MISMATCH, with every name.
        """
        ours = ARCHITECTURES[self.cfg.architecture][1].shapes(self.cfg)
        expected = {
            at.tensor: at.shape
            if at.shape is not None
            else (ours[name][::-1] if at.turned else ours[name])
            for name, at in self.stored.items()
            if self.other.get(at.tensor, self.file) == file
        }
        check_header(file, header, expected, self.ignored)

    @property
    def stored_bytes(self) -> int:
        """The bytes of its weights on disk, every decoder of a cross-layer transcoder counted."""
        numbers = {name: math.prod(info.shape) for name, info in self.infos().items()}
        decoder = self.stored.get("W_dec")
        if decoder is not None and decoder.shape is not None:
            numbers["W_dec"] = math.prod(decoder.shape)
        return getattr(torch, self.cfg.dtype).itemsize * sum(numbers.values())

    def read(self, source: FileSource, dtype: torch.dtype) -> tuple[SAEConfig, dict[str, Tensor]]:
        """Configuration and weights; W_enc is stored feature-major."""
        tensors = self._taken(source, dtype, self.stored)
        self.fix(tensors)
        require_finite(self.file, tensors)
        return self.cfg, tensors

    def read_encoder(self, source: FileSource, dtype: torch.dtype) -> dict[str, Tensor]:
        """What a layer of a cross-layer transcoder reads by, without its decoders."""
        tensors = self._taken(source, dtype, [name for name in self.stored if name != "W_dec"])
        require_finite(self.file, tensors)
        return tensors

    def decoder_rows(
        self, source: FileSource, features: Sequence[int], dtype: torch.dtype, *, later: int
    ) -> Tensor:
        """The decoder rows of these features of a cross-layer transcoder for the layer `later`
        layers after their own, [n, d_out], read from the file one by one."""
        at = self.stored["W_dec"]
        assert at.sum_from is not None, "only a cross-layer transcoder has several decoders"
        file = self.other.get(at.tensor, self.file)
        with open_file(source, file) as weights:
            self.check(weights.header, file)
            return weights.take_rows(at.tensor, features, dtype, block=at.sum_from + later)

    @property
    def n_written(self) -> int:
        """How many layers the decoders of a cross-layer transcoder's layer write; 0 for any other
        SAE."""
        at = self.stored.get("W_dec")
        if at is None or at.sum_from is None or at.shape is None:
            return 0
        return at.shape[1] - at.sum_from

    def _taken(
        self, source: FileSource, dtype: torch.dtype, names: Collection[str]
    ) -> dict[str, Tensor]:
        """These tensors; a file that holds none of them is left alone."""
        tensors: dict[str, Tensor] = {}
        places = {name: self.other.get(self.stored[name].tensor, self.file) for name in names}
        for file in dict.fromkeys([self.file, *self.other.values()]):
            if file not in places.values():
                continue
            with open_file(source, file) as weights:
                self.check(weights.header, file)
                for name, there in places.items():
                    if there == file:
                        tensors[name] = take(weights, name, self.stored[name], dtype)
        return tensors


def take(weights: Weights, name: str, at: Stored, dtype: torch.dtype) -> Tensor:
    """One tensor in the field's shape; W_enc feature-major in memory."""
    if name == "W_enc":
        return weights.take(at.tensor, dtype, transpose=not at.turned).T
    return weights.take(at.tensor, dtype, transpose=at.turned, sum_from=at.sum_from)


def require_finite(file: str, tensors: Mapping[str, Tensor]) -> None:
    """A last look at the small ones, which may have been computed."""
    for name, tensor in tensors.items():
        if tensor.ndim < 2 and not bool(tensor.isfinite().all()):
            raise FormatError(
                f"{_base(file)} gives a {name} that is NaN or infinite.",
                code="WEIGHTS_NOT_FINITE",
                field=name,
            )


def check_header(
    file: str,
    header: Mapping[str, TensorInfo],
    expected: Mapping[str, tuple[int, ...]],
    ignored: Collection[str] = (),
) -> None:
    """Raise unless these are exactly the expected tensors, beside what may be ignored."""
    missing = sorted(expected.keys() - header.keys())
    extra = sorted(
        name
        for name in header.keys() - expected.keys()
        if not any(fnmatchcase(name, pattern) for pattern in ignored)
    )
    wrong = {
        name: header[name].shape
        for name in expected.keys() & header.keys()
        if header[name].shape != expected[name]
    }
    if missing or extra or wrong:
        raise FormatError(
            f"{_base(file)} does not hold what it should."
            + (f" Missing: {missing}." if missing else "")
            + (f" Unknown: {extra}." if extra else "")
            + "".join(
                f" {name} is {shape}, expected {expected[name]}."
                for name, shape in sorted(wrong.items())
            ),
            code="SHAPE_MISMATCH",
            got=sorted(header),
            allowed=sorted(expected),
            hint="Get the file again, or check that its configuration belongs to it.",
        )


def matrix(file: str, header: Mapping[str, TensorInfo], tensor: str) -> tuple[int, int]:
    """Return the shape of a matrix that must be there."""
    info = header.get(tensor)
    if info is None or len(info.shape) != 2:
        raise FormatError(
            f"{_base(file)} has no matrix {tensor!r}: "
            f"{f'its shape is {info.shape}' if info else f'it holds {sorted(header)}'}.",
            code="SHAPE_MISMATCH",
            got=sorted(header),
            allowed=tensor,
        )
    return info.shape[0], info.shape[1]


def stored_dtype(header: Mapping[str, TensorInfo], tensor: str) -> str:
    """Return the dtype on disk, in torch's words."""
    return _DTYPES.get(header[tensor].dtype, "float32")


def open_file(source: FileSource, file: str) -> AbstractContextManager[Weights]:
    """The tensors of a safetensors, npz or (if the user allows it) PyTorch file, downloaded first
    if it is on the hub."""
    if file.endswith(".safetensors"):
        return open_weights(source, file)
    return open_npz(source, file) if file.endswith(".npz") else open_pickle(source, file)


def header_of(source: FileSource, file: str) -> dict[str, TensorInfo]:
    """What a weights file says that it holds; a PyTorch file must be converted for that."""
    if file.endswith(".safetensors"):
        return read_header(source, file)
    if file.endswith(".npz"):
        return read_npz_header(source, file)
    with open_pickle(source, file) as weights:
        return weights.header


def metadata(source: FileSource, dialect: str, **stated: Any) -> SAEMetadata:
    """Gather where the SAE belongs: as its files say (`stated`), else as the catalogue or the user
    does.

    Raises:
        FormatError: somebody asks for trust_remote_code.
    """
    known = {key: value for key, value in source.known.items() if key not in _NOT_METADATA}
    facts = known | {key: value for key, value in stated.items() if value not in ("", None)}
    kwargs = facts.get("model_from_pretrained_kwargs") or {}
    if not isinstance(kwargs, Mapping) or kwargs.get("trust_remote_code"):
        raise FormatError(
            "These files ask for trust_remote_code=True: that would run code from a repository.",
            code="REMOTE_CODE_REFUSED",
        )
    return SAEMetadata(
        model_name=str(facts.get("model_name") or ""),
        hook_name=str(facts.get("hook_name") or ""),
        hook_name_out=str(facts.get("hook_name_out") or ""),
        prepend_bos=facts.get("prepend_bos"),
        context_size=facts.get("context_size"),
        neuronpedia_id=str(facts.get("neuronpedia_id") or ""),
        center_writing_weights=bool(kwargs.get("center_writing_weights", False)),
        fold_value_biases=bool(facts.get("fold_value_biases", False)),
        note=str(facts.get("note") or ""),
        raw=facts | {"dialect": dialect} | ({"repo_id": source.repo_id} if source.repo_id else {}),
    )


def place(source: FileSource, file: str) -> str:
    """Repository and path, or the path on this disk: what the names on the way say of an SAE."""
    if source.repo_id:
        return f"{source.repo_id}/{source.path}".rstrip("/")
    return source.local(file).absolute().as_posix()


def need(settings: Mapping[str, Any], path: str, kind: type | tuple[type, ...], file: str) -> Any:
    """Return the value at a dotted path of a configuration file.

    Raises:
        ConfigError: it is not there, of another type, or a number that float32 does not hold.
    """
    value: Any = settings
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ConfigError(
                f"{_base(file)} lacks {path}.", field=path, hint=f"Add {path!r} to {_base(file)}."
            )
        value = value[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # type() and not isinstance: true is no width.
    if type(value) not in kinds:
        names = in_words(kinds)
        raise ConfigError(
            f"{_base(file)}: {path} must be {names}, got {value!r}.",
            field=path,
            got=value,
            allowed=names,
        )
    if type(value) is int and value < 1:
        raise ConfigError(
            f"{_base(file)}: {path} must be positive, got {value}.", field=path, got=value
        )
    if type(value) in (int, float) and not abs(value) <= MOST:
        raise ConfigError(
            f"{_base(file)}: {path} must be a number that float32 holds, got {str(value)[:40]}.",
            field=path,
            got=str(value)[:40],
            allowed=f"at most {MOST:.3g}",
        )
    return value


def in_words(kinds: Collection[type]) -> str:
    """Name these types as JSON does."""
    return " or ".join(_WORDS[kind] for kind in kinds if kind is not int or float not in kinds)


def unsupported(what: str, *, file: str, got: object, allowed: Collection[str]) -> ConfigError:
    """An activation, class or option that would change the numbers."""
    return ConfigError(
        f"{_base(file)}: {what} {got!r} is not supported (supported: {', '.join(allowed)}).",
        code="UNSUPPORTED_ARCHITECTURE",
        field=what,
        got=got,
        allowed=[*allowed],
        hint="Convert the SAE to SAELens's format if it computes the same as one of these.",
    )


def _base(name: str) -> str:
    return name.rpartition("/")[2]
