"""saescope: talk to the inside of a language model through sparse autoencoders (SAEs).

Everything is imported on first use, so `import saescope` costs milliseconds and pulls in no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saescope.activations import ActivationStore as ActivationStore
    from saescope.activations import open_dataset as open_dataset
    from saescope.activations import open_labelled as open_labelled
    from saescope.activations import read_sides as read_sides
    from saescope.activations import read_texts as read_texts
    from saescope.activations import store_activations as store_activations
    from saescope.attribution import attribute as attribute
    from saescope.catalogue import find_saes as find_saes
    from saescope.evals import check_sae as check_sae
    from saescope.evals import check_set as check_set
    from saescope.evals import evaluate as evaluate
    from saescope.features import LabelStore as LabelStore
    from saescope.features import QuizStore as QuizStore
    from saescope.features import contrast_models as contrast_models
    from saescope.features import contrast_texts as contrast_texts
    from saescope.features import dataset_passages as dataset_passages
    from saescope.features import encode_stack as encode_stack
    from saescope.features import encode_texts as encode_texts
    from saescope.features import export_features as export_features
    from saescope.features import feature_card as feature_card
    from saescope.features import find_by_label as find_by_label
    from saescope.features import find_by_texts as find_by_texts
    from saescope.features import find_firings as find_firings
    from saescope.features import make_quiz as make_quiz
    from saescope.features import rank_features as rank_features
    from saescope.features import text_passages as text_passages
    from saescope.features.index import find_index as find_index
    from saescope.features.index import index_features as index_features
    from saescope.graphs import GraphSettings as GraphSettings
    from saescope.graphs import read_graph as read_graph
    from saescope.graphs import trace_circuit as trace_circuit
    from saescope.hooks import edit_activations as edit_activations
    from saescope.hooks import record_activations as record_activations
    from saescope.ledger import Ledger as Ledger
    from saescope.ledger import judge_claim as judge_claim
    from saescope.lens import find_lens as find_lens
    from saescope.lens import fit_lens as fit_lens
    from saescope.lens import open_lens as open_lens
    from saescope.lens import read_lens as read_lens
    from saescope.load import load_sae as load_sae
    from saescope.load import peek_sae as peek_sae
    from saescope.models import load_model as load_model
    from saescope.neuronpedia import read_features as read_features
    from saescope.origin import settle as settle
    from saescope.publish import publish_sae as publish_sae
    from saescope.reports import Rerun as Rerun
    from saescope.reports import check_report as check_report
    from saescope.reports import export_report as export_report
    from saescope.saes import SAE as SAE
    from saescope.search import compare_prompts as compare_prompts
    from saescope.search import find_causes as find_causes
    from saescope.search import match_features as match_features
    from saescope.search import select_features as select_features
    from saescope.search import steer_search as steer_search
    from saescope.sets import SAESet as SAESet
    from saescope.sets import load_set as load_set
    from saescope.splice import record as record
    from saescope.splice import run_with_cache_with_saes as run_with_cache_with_saes
    from saescope.splice import run_with_saes as run_with_saes
    from saescope.stack import as_stack as as_stack
    from saescope.stack import tokenize as tokenize
    from saescope.steering import FeatureEdit as FeatureEdit
    from saescope.steering import find_by_tokens as find_by_tokens
    from saescope.steering import indexed_activations as indexed_activations
    from saescope.steering import intervene as intervene
    from saescope.steering import intervene_all as intervene_all
    from saescope.steering import steer as steer
    from saescope.steering import sweep as sweep
    from saescope.training import TrainConfig as TrainConfig
    from saescope.training import train as train
    from saescope.training import train_config as train_config
    from saescope.training import train_configs as train_configs
    from saescope.worlds import World as World
    from saescope.worlds import WorldConfig as WorldConfig
    from saescope.worlds import score_on_world as score_on_world

__version__ = "0.1.0"

_HOME = {
    "ActivationStore": "activations",
    "FeatureEdit": "steering",
    "GraphSettings": "graphs",
    "LabelStore": "features",
    "Ledger": "ledger",
    "QuizStore": "features",
    "Rerun": "reports",
    "SAE": "saes",
    "SAESet": "sets",
    "TrainConfig": "training",
    "World": "worlds",
    "WorldConfig": "worlds",
    "as_stack": "stack",
    "attribute": "attribution",
    "check_report": "reports",
    "check_sae": "evals",
    "check_set": "evals",
    "compare_prompts": "search",
    "contrast_models": "features",
    "contrast_texts": "features",
    "dataset_passages": "features",
    "edit_activations": "hooks",
    "encode_stack": "features",
    "encode_texts": "features",
    "evaluate": "evals",
    "export_features": "features",
    "export_report": "reports",
    "feature_card": "features",
    "find_by_label": "features",
    "find_by_texts": "features",
    "find_by_tokens": "steering",
    "find_causes": "search",
    "find_firings": "features",
    "find_index": "features.index",
    "find_lens": "lens",
    "find_saes": "catalogue",
    "fit_lens": "lens",
    "index_features": "features.index",
    "indexed_activations": "steering",
    "intervene": "steering",
    "intervene_all": "steering",
    "judge_claim": "ledger",
    "load_model": "models",
    "load_sae": "load",
    "load_set": "sets",
    "make_quiz": "features",
    "match_features": "search",
    "open_dataset": "activations",
    "open_labelled": "activations",
    "open_lens": "lens",
    "peek_sae": "load",
    "plan_lens": "lens",
    "publish_sae": "publish",
    "rank_features": "features",
    "read_features": "neuronpedia",
    "read_graph": "graphs",
    "read_lens": "lens",
    "read_sides": "activations",
    "read_texts": "activations",
    "record": "splice",
    "record_activations": "hooks",
    "run_with_cache_with_saes": "splice",
    "run_with_saes": "splice",
    "score_on_world": "worlds",
    "select_features": "search",
    "settle": "origin",
    "steer": "steering",
    "steer_search": "search",
    "store_activations": "activations",
    "sweep": "steering",
    "text_passages": "features",
    "tokenize": "stack",
    "trace_circuit": "graphs",
    "train": "training",
    "train_config": "training",
    "train_configs": "training",
}
__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'saescope' has no attribute {name!r}")
    return getattr(import_module(f"saescope.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
