"""What every SAE configuration shares: widths, input preparation and where the SAE belongs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from saescope.errors import ConfigError

Normalization = Literal[
    "none",
    "expected_average_only_in",
    "constant_norm_rescale",
    "layer_norm",
    "covariance_whitening",
    "constant_scalar_rescale",
]


MOST_WIDE = 2**45


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEMetadata:
    """Says where an SAE belongs: the fields that we act on, and in `raw` everything that the file
    said."""

    model_name: str = ""
    hook_name: str = ""
    hook_name_out: str = ""
    """The site that a transcoder writes; empty for an SAE."""
    prepend_bos: bool | None = None
    """None: as the model's own tokenizer does."""
    context_size: int | None = None
    neuronpedia_id: str = ""
    center_writing_weights: bool = False
    """Trained on activations minus their mean over d_model (TransformerLens's processed LayerNorm
    models)."""
    fold_value_biases: bool = False
    """Trained on attention's z without its value bias: minus b_V + ln1.b @ W_V of each head
    (TransformerLens's processed models)."""
    note: str = ""
    """What must be known before its numbers are believed, in one sentence; empty for most."""
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Kept as it was for whoever reads the file again; nothing outside this class looks into it by
    key."""

    @property
    def gate(self) -> str:
        """Which of several gates was chosen; empty where the format has one only."""
        return self._text("gate")

    @property
    def module(self) -> str:
        """The module of the Hugging Face model that it reads, where it names no hook."""
        return self._text("hf_module")

    @property
    def module_side(self) -> str:
        """Whether it reads what goes into that module or what comes out."""
        return self._text("hf_side") or "output"

    @property
    def module_out(self) -> str:
        """The module whose output a transcoder predicts."""
        return self._text("hf_module_out")

    @property
    def seqpos_slice(self) -> slice:
        """The positions of a context that it was trained on."""
        ends = self.raw.get("seqpos_slice")
        return slice(*ends) if isinstance(ends, list | tuple) and ends else slice(None)

    @property
    def dataset_path(self) -> str:
        """The text that it was trained on."""
        return self._text("dataset_path")

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of the model that it was trained on here."""
        return self._text("model_fingerprint")

    @property
    def sums_decoders(self) -> bool:
        """Whether its decoder is the sum of several that write at different layers: one layer of a
        cross-layer transcoder by itself."""
        return self.raw.get("sums_decoders") is True

    @property
    def published_l0(self) -> float | None:
        """L0 as its authors measured it on their text."""
        l0 = self.raw.get("l0")
        if isinstance(l0, bool) or not isinstance(l0, int | float):
            return None
        return float(l0) if l0 > 0 else None

    @property
    def source(self) -> Mapping[str, Any] | None:
        """The repository, path and revision that it was loaded from."""
        source = self.raw.get("source")
        return source if isinstance(source, Mapping) else None

    def stated(self, names: Iterable[str]) -> dict[str, str]:
        """What the file said under these names, for people to read; empty values are left out."""
        values = {name: self.raw.get(name) for name in names}
        return {name: str(value) for name, value in values.items() if value not in (None, "")}

    def _text(self, name: str) -> str:
        return str(self.raw.get(name) or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEConfig:
    """Fields of every architecture; each architecture's own config adds its knobs."""

    architecture: str
    d_in: int
    d_sae: int
    d_out: int = 0
    """Width of the reconstruction; 0 means d_in. Differs only in transcoders."""
    dtype: str = "float32"
    apply_b_dec_to_input: bool = True
    """Encode `x - b_dec` instead of `x`."""
    normalize_activations: Normalization = "none"
    reshape_activations: Literal["none", "hook_z"] = "none"
    transcoder: bool = False
    """Reads one site and predicts another."""
    skip: bool = False
    """The output has an affine skip connection `x @ W_skip.T` (Paulo et al. 2025,
    arXiv:2501.18823)."""
    metadata: SAEMetadata = field(default_factory=SAEMetadata)

    def __post_init__(self) -> None:
        if max(self.d_in, self.d_sae, self.d_out) >= MOST_WIDE:
            raise ConfigError(
                f"No SAE is {MOST_WIDE} wide or more, got d_in, d_sae and d_out "
                f"{self.d_in}, {self.d_sae}, {self.d_out}.",
                field="d_in" if self.d_in >= MOST_WIDE else "d_sae",
                allowed=f"1..{MOST_WIDE - 1}",
            )
        if self.d_in < 1 or self.d_sae < 1 or self.d_out < 0:
            raise ConfigError(
                f"d_in, d_sae and d_out must be positive, got {self.d_in}, "
                f"{self.d_sae}, {self.d_out}.",
                field="d_in" if self.d_in < 1 else "d_sae",
            )
        if not self.d_out:
            object.__setattr__(self, "d_out", self.d_in)
        if self.d_out != self.d_in and not self.transcoder:
            raise ConfigError(
                f"d_out {self.d_out} differs from d_in {self.d_in}: only a transcoder "
                "may have that.",
                field="d_out",
                got=self.d_out,
                allowed=self.d_in,
            )
        if (
            self.normalize_activations == "constant_scalar_rescale"
            and self.architecture != "temporal"
        ):
            raise ConfigError(
                "normalize_activations='constant_scalar_rescale' is known of temporal SAEs only.",
                field="normalize_activations",
                got=self.normalize_activations,
            )
        if self.skip and not self.transcoder:
            raise ConfigError("skip=True needs transcoder=True.", field="skip", got=True)
        if self.transcoder and (
            self.apply_b_dec_to_input
            or self.normalize_activations in ("layer_norm", "constant_norm_rescale")
        ):
            raise ConfigError(
                "A transcoder has no apply_b_dec_to_input and no per-position "
                "normalisation: its b_dec lives at the output site.",
                field="apply_b_dec_to_input"
                if self.apply_b_dec_to_input
                else "normalize_activations",
            )
