"""Configurations that lie beside an SAE's weights, its format's own and others: whatever they say
of the SAE must be what it is read as."""

import re
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any, NamedTuple

from saescope.errors import ConfigError
from saescope.formats.agreement import agree, contradiction, layer_in, same
from saescope.formats.source import FileSource, join
from saescope.saes import SAEConfig

FILES = ("config.json", "cfg.json", "config.yaml", "hyperparams.json")
RUNS = ("runner_cfg.json", "wandb-config.yaml", "wanb-config.yaml")
"""What a training run was asked for; the SAE that came of it may have been folded since."""
_SECTIONS = (
    *("metadata", "sae", "trainer", "model", "cfg", "config", "sae_cfg", "sae_config"),
    *("hyperparameters", "activation", "activation_fn", "activation_fn_kwargs"),
)
_TRAINED = "trainer."
_FOLDED = ("expected_average_only_in", "covariance_whitening")
_SCALES = {"k": (1000, 1024), "m": (1_000_000, 1 << 20)}
_SMALLEST = 1000
"""No published width has less; a folder that is called as a published one may hold a smaller
copy."""
_CHANGES = re.compile(
    r"threshold|(.*_)?(pre|post|layer|rms|batch|unit|input|output|activation|act)_?norm(_.*)?"
    r"|(.*_)?(subtract|center|centre|standardi[sz]e|whiten|normali[sz]e|demean|temperature|clamp)"
    r"(d|_.*)?|(.*_)?scal(e|es|ed|ing|ing_factor)(_.*)?|(.*_)?multiplier"
)
_HARMLESS = re.compile(
    r"eps|mse|init|loss|grad|decoder|dec(_|$)|penalty|noise|sparsity|writing|finetun|dataset|lr|aux"
    r"|wandb|scaler|schedul|attn|attention|rope|embed|weights|normalize_activations"
)
"""Names of training and of language models, which change nothing in what an SAE computes."""


class _Claim(NamedTuple):
    """What a file says of the SAE."""

    place: str
    """The file and the dotted key at which the claim stands."""
    key: str
    value: object
    trained: bool
    """It was asked for when training began."""

    @property
    def where_and_value(self) -> tuple[str, object]:
        return self.place, self.value


def neighbours(path: str) -> tuple[str, ...]:
    """The configurations that may lie beside the file at `path`."""
    return beside(path.rpartition("/")[0])


def beside(folder: str) -> tuple[str, ...]:
    """The configurations that may lie in a folder."""
    return tuple(join(folder, name) for name in (*FILES, *RUNS))


def with_neighbours(path: str) -> tuple[str, ...]:
    """What a load of such a file reads."""
    return (path, *neighbours(path))


def check_beside(source: FileSource, cfg: SAEConfig, *, own: Collection[str] = ()) -> None:
    """Raise unless what lies beside the weights says of the SAE what it is read as; `own` are the
    files that its format has judged already.

    Raises:
        ConfigError: a field says something else (both places are named), or would change what
            the SAE computes.
    """
    for file in beside(source.folder):
        name = file.rpartition("/")[2]
        if name in own or not source.exists(file):
            continue
        settings = source.yaml(file) if name.endswith(".yaml") else source.json(file)
        if "architectures" in settings:  # a language model's
            continue
        check_claims(source, cfg, settings, name)
        if name not in RUNS:
            refuse_changes(settings, name)


def check_claims(
    source: FileSource, cfg: SAEConfig, settings: Mapping[str, Any], file: str
) -> None:
    """Raise where a file says something else of the SAE than what it is read as."""
    read_as = _read_as(source, cfg)
    claims = [*_claims(settings, file)]
    keys = {claim.key for claim in claims}
    for claim in (claim for claim in claims if not _is_left_over(claim, keys, cfg)):
        for what, (words, plain) in _WORDS.items():
            value = plain(claim.value) if claim.key in words else None
            if value is None or what not in read_as or _is_silent(claim, what, cfg):
                continue
            if not any(same(value, ours) for ours in read_as[what]):
                raise contradiction(
                    (f"what was read as {what}", read_as[what][0]), claim.where_and_value
                )


def refuse_changes(settings: Mapping[str, Any], file: str) -> None:
    """Raise where a file asks for a step of the computation that no format has.

    Raises:
        ConfigError: it does.
    """
    unset = (None, False, 0, 1, "", "none")
    odd = [
        claim
        for claim in _claims(settings, file)
        if not (claim.value in unset and claim.value is not True)
        and _CHANGES.fullmatch(claim.key)
        and not _HARMLESS.search(claim.key)
    ]
    if odd:
        raise ConfigError(
            f"{file} has keys that saescope does not know: {sorted({claim.key for claim in odd})}. "
            "They may change what the SAE computes.",
            field=odd[0].key,
            got=odd[0].value,
            hint=f"If they do not, take them out of {file}.",
        )


def _claims(settings: Mapping[str, Any], file: str, prefix: str = "") -> Generator[_Claim]:
    """Every field; W&B writes {"value": 3} for 3."""
    for key, value in ((str(key), value) for key, value in settings.items()):  # YAML has others
        plain = value["value"] if isinstance(value, dict) and "value" in value else value
        if not isinstance(plain, dict):
            trained = file in RUNS or prefix.startswith(_TRAINED)
            yield _Claim(f"{file}: {prefix}{key}", key, plain, trained)
        elif key in _SECTIONS and prefix.count(".") < 2:
            yield from _claims(plain, file, f"{prefix}{key}.")


def _is_left_over(claim: _Claim, keys: set[str], cfg: SAEConfig) -> bool:
    """Whether other keys of the file overrule this one: lm_saes writes a top_k beside every act_fn,
    sparsify an expansion_factor beside num_latents."""
    if claim.key in ("top_k", "topk"):
        return not hasattr(cfg, "k") and "act_fn" in keys
    return claim.key in _TIMES and "num_latents" in keys


def _is_silent(claim: _Claim, what: str, cfg: SAEConfig) -> bool:
    """Whether the SAE may differ from what its run asked for: a BatchTopK SAE becomes a JumpReLU
    one, and a normalisation is folded into the weights."""
    may_be_batchtopk = claim.trained and cfg.architecture == "jumprelu"
    if what == "k" and not hasattr(cfg, "k"):
        of_another_class = f": {_TRAINED}" in claim.place  # which its dict_class decides
        return of_another_class or may_be_batchtopk
    if what == "rescale_acts_by_decoder_norm":
        return may_be_batchtopk
    if what == "normalize_activations":
        is_folded = cfg.normalize_activations == "none" and claim.value in _FOLDED
        return claim.trained and is_folded
    asked = str(_architecture(claim.value))
    return what == "architecture" and may_be_batchtopk and "batchtopk" in asked


def _read_as(source: FileSource, cfg: SAEConfig) -> dict[str, tuple[object, ...]]:
    """What the SAE is read as, in every spelling; what the user names wins over the files."""
    meta, known = cfg.metadata, source.known
    facts: dict[str, tuple[object, ...]] = {
        "d_in": (cfg.d_in,),
        "d_sae": (cfg.d_sae,),
        "d_out": (cfg.d_out,),
        "expansion_factor": (cfg.d_sae / cfg.d_in,),
        "k": (getattr(cfg, "k", f"nothing, by a {cfg.architecture} SAE"),),
        "architecture": (_architecture(cfg.architecture),),
        "transcoder": (cfg.transcoder,),
        "skip": (cfg.skip,),
        "normalize_activations": (cfg.normalize_activations,),
        "reshape_activations": (cfg.reshape_activations,),
        "apply_b_dec_to_input": (cfg.apply_b_dec_to_input,),
        "rescale_acts_by_decoder_norm": (getattr(cfg, "rescale_acts_by_decoder_norm", False),),
    }
    if cfg.architecture in ("standard", "gated"):
        facts["architecture"] += ("relu",)
    if meta.model_name and not known.get("model_name"):
        facts["model"] = (_model(meta.model_name),)
    if not meta.hook_name or known.get("hook_name"):
        return facts
    facts["layer"] = (layer_in(meta.hook_name),)
    facts["hook"] = _sites(cfg, "hook_name", meta.module)
    if not known.get("hook_name_out"):
        facts["hook_out"] = _sites(cfg, "hook_name_out", meta.module_out)
        # Published SAEs repeat their own site as the output.
        facts["hook_out"] += () if cfg.transcoder else facts["hook"]
    return {what: ours for what, ours in facts.items() if ours[0] is not None}


def _sites(cfg: SAEConfig, key: str, module: str) -> tuple[object, ...]:
    raw = cfg.metadata.raw
    return (getattr(cfg.metadata, key), raw.get(key), raw.get(f"hf_{key}"), module)


def _number(value: object) -> int | float | None:
    """A number, also one in quotes; zero says nothing."""
    if isinstance(value, str):
        return int(value[:9]) or None if value.isascii() and value.isdigit() else None
    return value or None if isinstance(value, int | float) and value is not True else None


def _whole(value: object) -> int | float | None:
    """A whole number; a ratio may have been rounded."""
    number = _number(value)
    return number if number is not None and number % 1 == 0 else None


def _layer(value: object) -> int | float | None:
    return 0 if same(value, 0) or value == "0" else _number(value)


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _architecture(value: object) -> str | None:
    """The architecture that a value names, without what `_transcoder` and `_skip` judge; only
    "standard" and "relu" say the same."""
    if not isinstance(value, str):
        return None
    name = re.sub(r"[^a-z]", "", value.lower())
    name = re.sub(r"skiptranscoder|transcoder", "", name)
    return name or None


def _transcoder(value: object) -> bool | None:
    if isinstance(value, str):
        return True if "transcoder" in value.lower() else None
    return _flag(value)


def _skip(value: object) -> bool | None:
    if isinstance(value, str):
        return True if re.search(r"skip_?transcoder", value.lower()) else None
    return _flag(value)


def _normalization(value: object) -> str | None:
    if isinstance(value, bool):
        return "expected_average_only_in" if value else "none"
    return _text(value)


def _model(value: object) -> str | None:
    """A model's name without its owner, and in the spelling that its other names share."""
    if not isinstance(value, str) or not value:
        return None
    name = value.lower().rpartition("/")[2].replace("-v3-", "-3-").removeprefix("meta-")
    return re.sub(r"-(hf|pt|small|v\d+(\.\d+)*)$", "", name)


_KINDS = (
    *("architecture", "activation", "activation_fn", "activation_fn_str", "activation_function"),
    *("act_fn", "act"),
)
_WIDTHS = (
    *("d_sae", "dict_size", "n_latents", "num_latents", "d_hidden", "d_feature"),
    *("n_features", "num_features", "width"),
)
_TIMES = ("expansion_factor", "exp_factor")
_PRE_BIAS = (
    *("apply_b_dec_to_input", "apply_decoder_bias_to_pre_encoder", "subtract_b_dec"),
    *("pre_bias", "use_pre_bias"),
)
_WORDS: dict[str, tuple[tuple[str, ...], Callable[[object], object]]] = {
    "d_in": (("d_in", "d_model", "activation_dim", "act_size"), _number),
    "d_sae": (_WIDTHS, _number),
    "expansion_factor": (_TIMES, _whole),
    "d_out": (("d_out",), _number),
    "layer": (("layer", "hook_layer", "hook_point_layer"), _layer),
    "k": (("k", "top_k", "topk"), _number),
    "hook": (("hook_name", "hook_point"), _text),
    "hook_out": (("hook_name_out", "hook_point_out"), _text),
    "model": (("model_name", "lm_name", "model"), _model),
    "architecture": (_KINDS, _architecture),
    "transcoder": (("architecture", "transcoder", "is_transcoder", "transcode"), _transcoder),
    "skip": (
        ("architecture", "skip", "skip_connection", "affine_connection", "use_skip"),
        _skip,
    ),
    "normalize_activations": (("normalize_activations",), _normalization),
    "reshape_activations": (("reshape_activations",), _text),
    "apply_b_dec_to_input": (_PRE_BIAS, _flag),
    "rescale_acts_by_decoder_norm": (("rescale_acts_by_decoder_norm",), _flag),
}
"""What can be said of an SAE: in which words, and how a value is to be read."""


def check_width(name: str, d_sae: int) -> None:
    """A width in a folder's name ("16k", "1m") against the weights."""
    match = re.fullmatch(r"(\d+)([km])", name.lower())
    if not match or d_sae < _SMALLEST:
        return
    claimed = int(match[1])
    if not any(d_sae // scale == claimed for scale in _SCALES[match[2]]):
        agree(
            ("the width in the folder's name", name),
            ("the width of the weights", d_sae),
            code="SHAPE_MISMATCH",
        )
