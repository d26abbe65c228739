"""A feature's card as rows of Neuronpedia's tables.

Columns as its own export has them (`utils/neuronpedia-utils/neuronpedia_utils/export-data.py` and
`db_models/` of github.com/hijohnnylin/neuronpedia, Apache-2.0, commit ebb8426 of 2026-08-20), in
its order. What a column holds follows SAEDashboard, whose numbers the site shows: a bar of a
histogram stands at its middle, and -1 marks an example that stands for no part of the range.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from saescope.layers import number_in
from saescope.neuronpedia.identity import HostedSAE
from saescope.records.card import CardBin, CardCorpus, CardExample, CardToken, FeatureCard

CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that a new instance of Neuronpedia has, to whom imported rows belong."""
AUTHOR = "saescope"
STRENGTH = 10.0
"""How strongly the site steers with a feature whose maximum is unknown: the column's default."""
NO_BAND = -1.0
Row = dict[str, Any]


class Bars(NamedTuple):
    """A histogram: the middle of each bar, and how high it is."""

    values: Sequence[float]
    heights: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A feature that is written: its card, and what no card has."""

    card: FeatureCard
    vector: Sequence[float] = ()
    """What one unit of it writes."""
    logits: Bars = field(default_factory=lambda: Bars((), ()))
    """Its effects on all tokens of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the features come from."""

    sae: HostedSAE
    model: str
    """The model's name at Hugging Face."""
    n_layers: int
    d_model: int
    title: str
    instruct: bool = False


def own_id(model: str, hook_name: str, weights_hash: str) -> HostedSAE:
    """What an SAE is called that Neuronpedia does not host, by its weights: the site lets the name
    of a model have no dots."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", model.rstrip("/").rpartition("/")[2].lower()).strip("-")
    layer = number_in(hook_name)
    return HostedSAE(slug or "model", f"{layer or 0}-saescope-{weights_hash[:12]}")


def set_of(sae: HostedSAE) -> str:
    """The set that a source belongs to: `8-res-jb__more` to `res-jb`."""
    return sae.source.partition("-")[2].partition("__")[0] or sae.source


def feature_row(sae: HostedSAE, feature: Exported) -> Row:
    """A row of "Neuron". An unknown density is -1, as the site's own upload writes it."""
    card, maximum = feature.card, feature.card.max_activation
    fired = None if card.density is None else maximum or 0.0
    return {
        **_key(sae, card.feature),
        "maxActApprox": fired,
        "creatorId": CREATOR,
        "frac_nonzero": -1.0 if card.density is None else card.density,
        "freq_hist_data_bar_heights": [row.count for row in card.histogram],
        "freq_hist_data_bar_values": [_float((row.low + row.high) / 2) for row in card.histogram],
        "logits_hist_data_bar_heights": [_float(value) for value in feature.logits.heights],
        "logits_hist_data_bar_values": [_float(value) for value in feature.logits.values],
        "neuron_alignment_indices": [],
        "neuron_alignment_l1": [],
        "neuron_alignment_values": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "decoder_weights_dist": [],
        **_tokens("neg", card.suppresses),
        **_tokens("pos", card.promotes),
        "sourceSetName": set_of(sae),
        "topkCosSimIndices": [row.feature for row in card.neighbours],
        "topkCosSimValues": [_float(row.cosine) for row in card.neighbours],
        "vector": [_float(value) for value in feature.vector],
        "vectorLabel": None,
        "hookName": card.hook_name_out or card.hook_name if feature.vector else None,
        "vectorDefaultSteerStrength": maximum or STRENGTH,
        "hasVector": bool(feature.vector),
    }


def activation_rows(sae: HostedSAE, card: FeatureCard) -> list[Row]:
    """Rows of "Activation", one an example."""
    rows: list[Row] = []
    for example in card.examples:
        values = [_float(value) for value in example.activations]
        band = band_of(example, card.histogram)
        content = {
            **_key(sae, card.feature),
            "creatorId": CREATOR,
            "dataSource": card.corpus and card.corpus.dataset,
            "tokens": example.tokens,
            "maxValue": max(values),
            "minValue": min(values),
            "values": values,
            "maxValueTokenIndex": values.index(max(values)),
            "dfaValues": [],
            "dfaMaxValue": None,
            "dfaTargetIndex": None,
            "binContains": band.share,
            "binMin": band.low,
            "binMax": band.high,
        }
        rows.append({"id": row_id("activation", content), **content})
    return rows


def explanation_rows(sae: HostedSAE, card: FeatureCard) -> list[Row]:
    """Rows of "Explanation". The names of authors and methods refer to tables of the site, so
    only what came from there has one."""
    rows: list[Row] = []
    for label in card.labels:
        content = {
            **_key(sae, card.feature),
            "authorId": CREATOR,
            "description": label.text,
            "embedding": None,
            "typeName": None,
            "explanationModelName": model_of(label.source),
            **dict.fromkeys(("umap_x", "umap_y", "umap_cluster", "umap_log_feature_sparsity")),
        }
        rows.append({"id": row_id("explanation", content), **content})
    return rows


def model_of(source: str) -> str | None:
    """The explaining model that Neuronpedia named, of a label's source."""
    return source.partition(":")[2] or None if source.startswith("neuronpedia:") else None


class Band(NamedTuple):
    """The part of the range that an example stands for, and its share of the firings."""

    low: float
    high: float
    share: float


def band_of(example: CardExample, histogram: Sequence[CardBin]) -> Band:
    """The band in an example's words, `1.41..2`; -1 for the strongest, which stand for none."""
    low, dots, high = example.band.partition("..")
    try:
        ends = (float(low), float(high)) if dots else None
    except ValueError:
        ends = None
    n_fired = sum(row.count for row in histogram)
    if ends is None or not n_fired:
        return Band(NO_BAND, NO_BAND, NO_BAND)
    # The words have three digits: a bar belongs to the band that holds its middle.
    inside = sum(row.count for row in histogram if ends[0] <= (row.low + row.high) / 2 < ends[1])
    return Band(*ends, inside / n_fired)


def source_files(origin: Origin, cards: Sequence[FeatureCard], now: datetime) -> dict[str, Row]:
    """The one row of `release.jsonl`, `model.jsonl`, `sourceset.jsonl` and `source.jsonl`."""
    public: Row = {"creatorId": CREATOR, "visibility": "PUBLIC", "createdAt": now.isoformat()}
    corpus = next((card.corpus for card in cards if card.corpus), None)
    return {
        "release": _release(origin) | public,
        "model": _model(origin) | public | {"updatedAt": now.isoformat()},
        "sourceset": _source_set(origin) | public,
        "source": _source(origin, corpus) | public,
    }


def _release(origin: Origin) -> Row:
    return {
        "name": set_of(origin.sae),
        "description": origin.title,
        "descriptionShort": origin.title,
        "creatorName": AUTHOR,
        "creatorNameShort": AUTHOR,
        "creatorEmail": None,
        "urls": [],
        "isNewUi": False,
        "featured": False,
        "defaultSourceSetName": None,
        "defaultSourceId": None,
        "defaultUmapSourceIds": [],
    }


def _model(origin: Origin) -> Row:
    return {
        "id": origin.sae.model,
        "instruct": origin.instruct,
        "displayNameShort": origin.sae.model,
        "displayName": origin.model,
        "tlensId": None,
        "dimension": origin.d_model,
        "inferenceEnabled": False,
        "layers": origin.n_layers,
        "neuronsPerLayer": 0,
        "owner": origin.model.rpartition("/")[0],
        "website": None,
        "defaultSourceSetName": None,
        "defaultSourceId": None,
    }


def _source_set(origin: Origin) -> Row:
    hidden = ("showDfa", "showCorrelated", "showHeadAttribution", "showUmap")
    return {
        "modelId": origin.sae.model,
        "name": set_of(origin.sae),
        "hasDashboards": True,
        "description": origin.title,
        "type": "",
        "creatorName": AUTHOR,
        "creatorEmail": None,
        "urls": [],
        "releaseName": set_of(origin.sae),
        "defaultOfModelId": None,
        "defaultRange": 1,
        "defaultShowBreaks": True,
        **dict.fromkeys(hidden, False),
    }


def _source(origin: Origin, corpus: CardCorpus | None) -> Row:
    elsewhere = ("saelensConfig", "saelensRelease", "saelensSaeId", "hfRepoId", "hfFolderId")
    return {
        "id": origin.sae.source,
        "modelId": origin.sae.model,
        "setName": set_of(origin.sae),
        "hasDashboards": True,
        "inferenceEnabled": False,
        "inferenceHosts": [],
        **dict.fromkeys(elsewhere),
        "defaultOfModelId": None,
        "hasUmap": False,
        "hasUmapLogSparsity": False,
        "hasUmapClusters": False,
        "num_prompts": corpus and corpus.n_contexts,
        "num_tokens_in_prompt": corpus and corpus.context_size,
        "dataset": corpus and corpus.dataset,
        "notes": None,
    }


def row_id(kind: str, content: Mapping[str, Any]) -> str:
    """An id that the same content always gets, so that an import again adds nothing."""
    told = repr((kind, sorted(content.items(), key=lambda item: item[0])))
    return "c" + hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _key(sae: HostedSAE, feature: int) -> Row:
    return {"modelId": sae.model, "layer": sae.source, "index": str(feature)}


def _tokens(sign: str, tokens: Sequence[CardToken]) -> Row:
    return {
        f"{sign}_str": [row.token for row in tokens],
        f"{sign}_values": [_float(row.effect) for row in tokens],
    }


def _float(value: float) -> float:
    """The shortest number of nine digits, which restores a float32 exactly."""
    return float(f"{value:.9g}")
