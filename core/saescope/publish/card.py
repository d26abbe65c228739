"""The model card: how to load the SAE, what it is, how good it is, where it comes from."""

import json
from collections.abc import Iterable
from typing import Any

from saescope.evals import Evaluation
from saescope.publish.publication import Loading
from saescope.publish.sharing import public_name
from saescope.saes import SAE

_FENCE = "```"
_PROVENANCE = (
    "training_architecture",
    "dataset_path",
    "training_tokens",
    "seed",
    "context_size",
    "prepend_bos",
    "sae_lens_version",
)


def model_card(
    sae: SAE, load: Loading, evaluation: Evaluation | None, *, title: str, version: str
) -> str:
    """Write the README.md of an SAE, front matter included."""
    sections = [
        _front_matter(sae),
        f"# {title}\n\n{_what(sae)}",
        _loading(load),
        _shape(sae),
        _quality(evaluation),
        _provenance(sae, version),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(sae: SAE) -> str:
    base = sae.cfg.metadata.model_name
    fields: dict[str, Any] = {
        "library_name": "saelens",
        "tags": ["sparse-autoencoder", "interpretability", "saescope"],
    }
    if base.count("/") == 1:
        fields["base_model"] = base
    return "\n".join(
        ["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"]
    )


def _what(sae: SAE) -> str:
    meta, kind = (
        sae.cfg.metadata,
        "transcoder" if sae.cfg.transcoder else "sparse autoencoder (SAE)",
    )
    where = f"`{meta.hook_name or 'an unknown hook'}`" + (
        f" to `{meta.hook_name_out}`" if sae.cfg.transcoder else ""
    )
    return (
        f"A {sae.cfg.architecture} {kind} on {where} of "
        f"{meta.model_name or 'an unknown model'}, with {sae.cfg.d_sae:,} features."
    )


def _loading(load: Loading) -> str:
    ours = (
        "With saescope, from Python or the command line "
        f"(`{load.command}`):\n\n{_python('import saescope as ss', load.saescope)}"
    )
    lens = (
        "With "
        "[SAELens](https://github.com/decoderesearch/SAELens):\n\n"
        f"{_python('from sae_lens import SAE', load.sae_lens)}"
    )
    return "\n\n".join(["## Load it", ours, *([lens] if load.sae_lens else [])])


def _python(imports: str, call: str) -> str:
    return f"{_FENCE}python\n{imports}\n\nsae = {call}\n{_FENCE}"


def _shape(sae: SAE) -> str:
    cfg = sae.cfg
    rows = {"architecture": cfg.architecture, "d_in": cfg.d_in, "d_sae": cfg.d_sae}
    rows |= {"d_out": cfg.d_out, "skip connection": cfg.skip} if cfg.transcoder else {}
    rows |= {
        "k": getattr(cfg, "k", None),
        "dtype": str(sae.dtype).removeprefix("torch."),
        "normalize_activations": cfg.normalize_activations,
    }
    rows |= {"hook_name": cfg.metadata.hook_name, "hook_name_out": cfg.metadata.hook_name_out}
    return "## What it is\n\n" + _table(
        ("field", "value"),
        [(name, str(value)) for name, value in rows.items() if value not in (None, "")],
    )


def _quality(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "## Quality\n\nNot evaluated. `saescope evaluate-sae` measures it."
    clean = None if evaluation.ce is None else evaluation.ce.clean
    values = {
        "L0": ("l0", evaluation.l0),
        "explained variance": ("explained_variance", evaluation.explained_variance),
        "the model's own loss (nats a token)": ("ce.clean", clean),
        "CE score": ("ce_score", evaluation.ce_score),
        "KL score": ("kl_score", evaluation.kl_score),
        "cosine": ("cosine", evaluation.cosine),
        "MSE (summed over the width)": ("mse", evaluation.mse),
        "L2 ratio": ("l2_ratio", evaluation.shrinkage.l2_ratio),
        "dead features": ("", evaluation.dead_share),
        "dense features (> 10 % of tokens)": ("", evaluation.dense_share),
    }
    rows = [
        (name, _number(value), _range(evaluation, key)) for name, (key, value) in values.items()
    ]
    parts = [
        "## Quality",
        f"**{evaluation.verdict.level}**: {evaluation.verdict.summary}",
        _table(("metric", "value", "95 % interval"), rows),
    ]
    if evaluation.baselines is not None:
        simpler, pca = (
            [("random SAE of the same L0", evaluation.baselines.random_sae)],
            evaluation.baselines.pca,
        )
        if pca is not None:
            simpler.append((f"PCA, {pca.size} directions", pca))
        compared = [
            (name, _number(each.explained_variance), _number(each.ce_score))
            for name, each in simpler
        ]
        parts.append(_table(("for comparison", "explained variance", "CE score"), compared))
    parts.append("\n".join(f"- {reason.finding}" for reason in evaluation.verdict.reasons))
    parts.append(
        f"Measured on {evaluation.n_tokens:,} tokens of {_text_name(evaluation.dataset)} "
        f"({evaluation.n_contexts} contexts of {evaluation.context_size} from "
        f"{evaluation.n_documents} documents, seed {evaluation.seed}), position 0 and special "
        "tokens left out; intervals by resampling documents, PCA fitted to the other half of them."
    )
    return "\n\n".join(parts)


def _provenance(sae: SAE, version: str) -> str:
    meta = sae.cfg.metadata
    rows = [("model", meta.model_name or "unknown"), *meta.stated(_PROVENANCE).items()]
    if (source := meta.source) is not None:
        rows.append(
            (
                "taken from",
                f"{source.get('repo_id')}/{source.get('path')} at "
                f"{source.get('revision')}: its licence applies",
            )
        )
    rows += [("sha256 of the weights", sae.weights_hash), ("written by", f"saescope {version}")]
    return "## Provenance\n\n" + _table(("field", "value"), rows)


def _text_name(dataset: str) -> str:
    return (
        "saescope's own sample of public-domain text"
        if dataset == "embedded"
        else f"`{public_name(dataset)}`"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _range(evaluation: Evaluation, key: str) -> str:
    return (
        f"{evaluation.intervals[key].low:.4g} to {evaluation.intervals[key].high:.4g}"
        if key in evaluation.intervals
        else ""
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )
