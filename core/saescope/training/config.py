"""Everything a training run needs, judged before anything is loaded; and the table of its rarer
knobs."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from saescope.errors import ArgumentError, ConfigError
from saescope.names import nearest
from saescope.recipes import RECIPES, Architecture, Revival, TrainingRecipe
from saescope.training.objective import (
    Objective,
    SparsityMode,
)

Normalization = Literal["none", "expected_average_only_in", "covariance_whitening"]
MAX_TOKENS = 10**12


Real = float | int
"""A number that may be given as a whole one."""


class Knob(NamedTuple):
    """What `options` may set: a line of help and bounds; choices are the type's."""

    help: str
    low: float = -math.inf
    high: float = math.inf


class Chosen(NamedTuple):
    """What a run does where its settings leave a choice open, under the names of the settings."""

    d_out: int
    batch_size: int
    matryoshka_widths: tuple[int, ...]
    lr: float
    lr_warm_up_steps: int
    lr_decay_steps: int
    sparsity_warm_up_steps: int
    dead_feature_window: int
    resample_every: int
    log_every: int
    data_seed: int
    revival: Revival


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run as it was asked for: no field is ever changed.

    Where the text says so, 0, -1, "auto" or an empty value leaves a choice open; `chosen` has it
    made.
    """

    model: str = ""
    hook_name: str
    hook_name_out: str = ""
    """The site that a transcoder predicts; empty for an SAE."""
    dataset: str = "embedded"
    architecture: Architecture = "topk"
    d_in: int
    d_out: int = 0
    """The width at hook_name_out; 0 stands for d_in."""
    d_sae: int
    k: Real = 32.0
    """TopK family: features kept a position. Else the L0 that the coefficient is steered to, while
    that is 0."""
    l1_coefficient: Real = 0.0
    """standard, gated: 0 = steered so that the L0 comes to k."""
    l0_coefficient: Real = 0.0
    """jumprelu: 0 = steered so that the L0 comes to k (or to target_l0)."""
    training_tokens: int = 2_000_000
    context_size: int = 256
    batch_size: int = 0
    """0 = a power of two from 256 to 4096 that gives the run 300 steps where it can."""
    lr: Real = 0.0
    """0 = 1 / sqrt(d_in * steps), steps counted from 45 to 10,000: what did best from 24 to 2,000
    steps (docs/benchmarks.md)."""
    seed: int = 0
    name: str = ""

    skip: Annotated[bool, Knob("transcoders: add an affine skip connection W_skip")] = False
    revival: Annotated[
        Revival | Literal["auto"],
        Knob("how dead features are brought back; auto = the architecture's own"),
    ] = "auto"
    aux_loss_coefficient: Annotated[Real, Knob("weight of the AuxK or ghost term", low=0)] = 1.0
    pre_act_loss_coefficient: Annotated[
        Real, Knob("jumprelu: weight of the pre-activation term on dead features", low=0)
    ] = 3e-6
    dead_feature_window: Annotated[
        int,
        Knob(
            "steps without firing after which a feature counts as dead; 0 = a tenth of "
            "the run, 10 to 1000",
            low=0,
        ),
    ] = 0
    resample_every: Annotated[
        int, Knob("resample: steps between two rounds; 0 = twice the dead-feature window", low=0)
    ] = 0
    lr_warm_up_steps: Annotated[
        int, Knob("steps of linear warm-up; -1 = a twentieth of the run", low=-1)
    ] = -1
    lr_decay_steps: Annotated[
        int, Knob("steps of linear decay to 0 at the end; -1 = a fifth of the run", low=-1)
    ] = -1
    lr_scheduler: Annotated[
        Literal["constant", "cosine"], Knob("shape between warm-up and decay")
    ] = "constant"
    sparsity_warm_up_steps: Annotated[
        int,
        Knob(
            "steps over which a given l1_coefficient or l0_coefficient rises; -1 = a "
            "tenth of the run",
            low=-1,
        ),
    ] = -1
    adam_beta1: Annotated[Real, Knob("Adam's first decay", low=0, high=0.99999)] = 0.9
    adam_beta2: Annotated[Real, Knob("Adam's second decay", low=0, high=0.99999)] = 0.999
    max_grad_norm: Annotated[Real, Knob("gradients are clipped to this norm; 0 = never", low=0)] = (
        1.0
    )
    decoder_norm: Annotated[
        Literal["free", "unit"], Knob("unit: decoder rows are held at norm 1")
    ] = "free"
    decoder_init_norm: Annotated[
        Real, Knob("norm of the decoder rows at the start", low=1e-6, high=100)
    ] = 0.3
    apply_b_dec_to_input: Annotated[bool, Knob("encode x - b_dec; ignored by transcoders")] = True
    rescale_acts_by_decoder_norm: Annotated[
        bool, Knob("topk family: rank as if decoder rows had norm 1")
    ] = True
    normalize_activations: Annotated[
        Normalization, Knob("scaling of the input, folded into the weights at the end")
    ] = "expected_average_only_in"
    n_batches_for_norm_estimate: Annotated[
        int,
        Knob(
            "batches that scaling and start are estimated on; they are trained on too",
            low=1,
            high=1000,
        ),
    ] = 8
    lp_norm: Annotated[Real, Knob("standard: the p of the sparsity norm", low=0.1, high=10)] = 1.0
    matryoshka_widths: Annotated[
        tuple[int, ...], Knob("matryoshka: prefix widths such as 512,2048; d_sae is added")
    ] = ()
    use_matryoshka_aux_loss: Annotated[
        bool, Knob("matryoshka: AuxK against the residual of each prefix")
    ] = False
    jumprelu_bandwidth: Annotated[
        Real, Knob("jumprelu: width of the straight-through estimator", low=1e-6, high=100)
    ] = 2.0
    jumprelu_init_threshold: Annotated[
        Real,
        Knob(
            "jumprelu: threshold at the start; 0 = where the first batches have 1.5 "
            "times the L0 aimed at",
            low=0,
            high=100,
        ),
    ] = 0.0
    jumprelu_sparsity_loss_mode: Annotated[SparsityMode, Knob("jumprelu: form of the L0 loss")] = (
        "step"
    )
    jumprelu_tanh_scale: Annotated[Real, Knob("jumprelu: scale inside tanh", low=1e-6)] = 4.0
    jumprelu_ste_to_input: Annotated[
        bool, Knob("jumprelu: the estimator also trains the encoder")
    ] = True
    target_l0: Annotated[Real, Knob("jumprelu: the L0 to aim at; 0 = k", low=0)] = 0.0
    prepend_bos: Annotated[
        Literal["auto", "true", "false"], Knob("BOS at the start of each context")
    ] = "auto"
    join_documents: Annotated[
        bool,
        Knob(
            "a context continues with the next document; false = sae-lens's "
            "disable_concat_sequences"
        ),
    ] = True
    document_separator: Annotated[
        Literal["auto", "bos", "eos", "none"],
        Knob("token between two documents in a context; auto = EOS, else BOS (sae-lens: BOS)"),
    ] = "auto"
    text_column: Annotated[
        str,
        Knob("column of the text in tables and hub datasets; empty = the obvious one"),
    ] = ""
    buffer_tokens: Annotated[
        int, Knob("positions that are mixed before batches are drawn", low=1, high=2**24)
    ] = 2**17
    data_seed: Annotated[
        int, Knob("order of the text and of what is mixed; -1 = seed", low=-1, high=2**31 - 1)
    ] = -1
    cache_activations: Annotated[
        bool, Knob("keep the activations on disk: later runs on the same text and site read them")
    ] = False
    cached_tokens: Annotated[
        int,
        Knob(
            "cache_activations: positions kept, gone through until training_tokens are "
            "reached; 0 = all of these",
            low=0,
        ),
    ] = 0
    log_every: Annotated[
        int,
        Knob(
            "steps between two points of the history; 0 = 200 a run, one every 20 steps at first",
            low=0,
        ),
    ] = 0
    checkpoint_every_s: Annotated[
        Real,
        Knob(
            "seconds between two checkpoints; the first comes after a minute, the next "
            "ones space out",
            low=1,
        ),
    ] = 600.0
    keep_checkpoints: Annotated[int, Knob("complete checkpoints kept", low=1, high=100)] = 2
    shard_features: Annotated[
        bool,
        Knob(
            "nproc: each process holds a part of the features, not of the batch (topk, "
            "batchtopk, matryoshka_batchtopk); for dictionaries that one card cannot hold"
        ),
    ] = False
    logger: Annotated[Literal["none", "wandb", "tensorboard"], Knob("where metrics also go")] = (
        "none"
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            option.check(name, getattr(self, name))
        self._check_sizes()
        self._check_text()
        self._check_site()
        if self.steered and not 0 < self.l0 <= self.d_sae:
            raise ConfigError(
                f"k must be in (0, d_sae={self.d_sae}], got {self.l0}.", field="k", got=self.l0
            )
        _ = self.objective  # judges the rest

    def _check_text(self) -> None:
        if self.document_separator != "auto" and not self.join_documents:
            raise ConfigError(
                "Nothing stands between two documents that share no context.",
                code="CONFLICTING_ARGUMENTS",
                field="document_separator",
                got=self.document_separator,
                allowed="auto",
                hint="Leave document_separator out, or join_documents=False.",
            )

    @property
    def asked(self) -> dict[str, Any]:
        """The settings that differ from the defaults, as they were given."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @property
    def chosen(self) -> Chosen:
        """What the run does where its settings leave it open."""
        batch_size = self.batch_size or _batch_size(self.training_tokens)
        n_steps = self.training_tokens // batch_size if batch_size > 0 else 0
        window = self.dead_feature_window or max(10, min(1000, n_steps // 10))
        return Chosen(
            d_out=self.d_out or self.d_in,
            batch_size=batch_size,
            matryoshka_widths=self._widths(),
            lr=float(self.lr) or (self.d_in * min(max(n_steps, 45), 10_000)) ** -0.5,
            lr_warm_up_steps=_share(self.lr_warm_up_steps, n_steps // 20),
            lr_decay_steps=_share(self.lr_decay_steps, n_steps // 5),
            sparsity_warm_up_steps=_share(self.sparsity_warm_up_steps, n_steps // 10),
            dead_feature_window=window,
            resample_every=self.resample_every or 2 * window,
            log_every=self.log_every or max(1, min(n_steps // 200, 20)),
            data_seed=self.seed if self.data_seed < 0 else self.data_seed,
            revival=self._revival(),
        )

    def _widths(self) -> tuple[int, ...]:
        if not self.recipe.nested:
            return self.matryoshka_widths
        widths = self.matryoshka_widths or tuple(
            width for width in (self.d_sae // 16, self.d_sae // 4) if width
        )
        return widths if widths[-1:] == (self.d_sae,) else (*widths, self.d_sae)

    def _revival(self) -> Revival:
        if self.revival != "auto":
            return self.revival
        return self.recipe.transcoder_revival if self.transcoder else self.recipe.revival

    def _check_sizes(self) -> None:
        batch_size = self.chosen.batch_size
        whole = {
            "d_in": self.d_in,
            "d_out": self.chosen.d_out,
            "d_sae": self.d_sae,
            "batch_size": batch_size,
            "context_size": self.context_size,
        }
        for name, value in whole.items():
            if value < 1:
                raise ConfigError(
                    f"{name} must be at least 1, got {value}.",
                    field=name,
                    got=value,
                    allowed=">= 1",
                )
        if not batch_size <= self.training_tokens <= MAX_TOKENS:
            raise ConfigError(
                f"training_tokens must be between one batch ({batch_size}) and "
                f"{MAX_TOKENS}, got {self.training_tokens}.",
                field="training_tokens",
                got=self.training_tokens,
            )
        if 0 < self.cached_tokens < batch_size:
            message = (
                f"cached_tokens must be 0 or at least one batch ({batch_size}), got "
                f"{self.cached_tokens}."
            )
            raise ConfigError(message, field="cached_tokens", got=self.cached_tokens)
        for name in ("lr", "l1_coefficient", "l0_coefficient"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}.",
                    field=name,
                    got=getattr(self, name),
                )

    def _check_site(self) -> None:
        if self.hook_name_out or self.chosen.d_out == self.d_in:
            if self.skip and not self.hook_name_out:
                raise ConfigError(
                    "skip=True needs hook_name_out: only a transcoder has a skip connection.",
                    field="skip",
                )
            if self.hook_name_out and self.normalize_activations == "covariance_whitening":
                raise ConfigError(
                    "Whitening exists for SAEs only, not for transcoders.",
                    field="normalize_activations",
                )
            return
        raise ConfigError(
            f"d_out {self.d_out} differs from d_in {self.d_in}: only a transcoder may "
            "have that (set hook_name_out).",
            field="d_out",
        )

    @property
    def recipe(self) -> TrainingRecipe:
        return RECIPES[self.architecture]

    @property
    def transcoder(self) -> bool:
        return bool(self.hook_name_out)

    @property
    def objective(self) -> Objective:
        """The part of the run that the loss depends on."""
        apart = {"revival", "apply_b_dec_to_input", "target_l0", "d_out", "matryoshka_widths"}
        shared = {f.name for f in fields(Objective)} & {f.name for f in fields(self)} - apart
        chosen, quadratic = self.chosen, self.jumprelu_sparsity_loss_mode == "quadratic"
        return Objective(
            **{name: self._plain(name) for name in shared},
            d_out=chosen.d_out,
            matryoshka_widths=chosen.matryoshka_widths,
            revival=chosen.revival,
            target_l0=self.l0 if quadratic else float(self.target_l0),
            apply_b_dec_to_input=self.apply_b_dec_to_input and not self.transcoder,
        )

    def _plain(self, name: str) -> Any:
        """A setting, a number in float where whole numbers are taken too."""
        value = getattr(self, name)
        return float(value) if name in _REALS else value

    @property
    def n_steps(self) -> int:
        return self.training_tokens // self.chosen.batch_size

    @property
    def harvested_tokens(self) -> int:
        """The number of positions for which the language model runs."""
        n_tokens = self.n_steps * self.chosen.batch_size
        return min(self.cached_tokens or n_tokens, n_tokens) if self.cache_activations else n_tokens

    @property
    def l0(self) -> float:
        """The L0 that the run aims at."""
        aimed = self.target_l0 if self.recipe.sets_l0 == "l0_coefficient" else 0.0
        return float(aimed or self.k)

    @property
    def sparsity_coefficient(self) -> float:
        """The coefficient of the sparsity loss; 0 where there is none (topk family) or it is
        steered."""
        return 0.0 if self.recipe.ranks else float(getattr(self, self.recipe.sets_l0))

    @property
    def steered(self) -> bool:
        return not self.recipe.ranks and not self.sparsity_coefficient

    @property
    def revival_coefficient(self) -> float:
        return float(getattr(self, self.recipe.revival_coefficient))

    @property
    def complete(self) -> dict[str, Any]:
        """All settings with every choice made: two runs with the same ones train the same SAE."""
        return self.to_dict() | self.chosen._asdict()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"matryoshka_widths": list(self.matryoshka_widths)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        known: dict[str, Any] = {
            **values,
            "matryoshka_widths": tuple(values.get("matryoshka_widths", ())),
        }
        return cls(**known)

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.complete, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Option:
    """A knob that `options` may set as "name=value"."""

    default: Any
    help: str
    low: float
    high: float
    choices: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"{name}={value!r} is unknown.", field=name, got=value, allowed=self.choices
            )
        if isinstance(value, int | float) and not self.low <= value <= self.high:
            bounds = f"[{self.low:g}, {self.high:g}]"
            raise ConfigError(
                f"{name} must be in {bounds}, got {value}.", field=name, got=value, allowed=bounds
            )

    def parse(self, name: str, text: str) -> Any:
        try:
            if isinstance(self.default, bool):
                return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            if isinstance(self.default, tuple):
                return tuple(int(part) for part in text.split(",") if part)
            return type(self.default)(text)
        except (ValueError, KeyError) as error:
            kind = (
                "whole numbers with commas"
                if isinstance(self.default, tuple)
                else type(self.default).__name__
            )
            raise ArgumentError(
                f"{name}={text!r} is no {kind}.",
                field="options",
                got=f"{name}={text}",
                allowed=kind,
            ) from error


def _options() -> dict[str, Option]:
    options: dict[str, Option] = {}
    defaults = {knob.name: knob.default for knob in fields(TrainConfig)}
    for name, hint in get_type_hints(TrainConfig, include_extras=True).items():
        for knob in getattr(hint, "__metadata__", ()):
            if isinstance(knob, Knob):
                options[name] = Option(
                    defaults[name],
                    knob.help,
                    float(knob.low),
                    float(knob.high),
                    _choices(hint.__origin__),
                )
    return options


def _batch_size(training_tokens: int) -> int:
    size = max(1, training_tokens // 300)
    return min(max(256, min(4096, 1 << (size.bit_length() - 1))), max(1, training_tokens))


def _share(steps: int, otherwise: int) -> int:
    """A number of steps; negative: the usual share of the run."""
    return otherwise if steps < 0 else steps


_REALS = {name for name, hint in get_type_hints(TrainConfig).items() if hint == Real}


def _choices(kind: Any) -> tuple[str, ...]:
    """The strings of a Literal, or of a union of them."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(
        choice
        for part in get_args(kind)
        if get_origin(part) is Literal
        for choice in get_args(part)
    )


OPTIONS = _options()
"""Every rarer knob of a training, by name."""


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """`["lp_norm=2", "skip=true"]` as keyword arguments of TrainConfig.

    Raises:
        ArgumentError: no "name=value", an unknown name, or a value of the wrong type.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, text = (part.strip() for part in option.partition("="))
        if not equals or name not in OPTIONS:
            close = nearest(name, OPTIONS)
            raise ArgumentError(
                f"Option {option!r} is unknown."
                if equals
                else f"Option {option!r} must read name=value.",
                code="UNKNOWN_OPTION",
                field="options",
                got=option,
                allowed=close or sorted(OPTIONS),
            )
        if name in parsed:
            raise ArgumentError(
                f"Option {name} is given twice.",
                code="CONFLICTING_ARGUMENTS",
                field="options",
                got=option,
            )
        parsed[name] = OPTIONS[name].parse(name, text)
    return parsed
