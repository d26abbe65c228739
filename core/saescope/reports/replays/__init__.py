"""Which results can be computed again, and how each is written as code of the library."""

from collections.abc import Mapping

from saescope.reports.replays.changing import compare_prompts, steer_generate, steer_search
from saescope.reports.replays.explaining import attribute_logit, intervene
from saescope.reports.replays.finding import find_features
from saescope.reports.replays.judging import describe_feature, evaluate_sae, trace_circuit
from saescope.reports.replays.reading import encode_text, top_features
from saescope.reports.replays.replay import CannotReplayError, Replay, Writer

REPLAYS: Mapping[str, Writer] = {
    "attribute_logit": attribute_logit,
    "compare_prompts": compare_prompts,
    "describe_feature": describe_feature,
    "encode_text": encode_text,
    "evaluate_sae": evaluate_sae,
    "find_features": find_features,
    "intervene": intervene,
    "steer_generate": steer_generate,
    "steer_search": steer_search,
    "top_features": top_features,
    "trace_circuit": trace_circuit,
}
NOT_AGAIN: Mapping[str, str] = {
    "train_sae": "a training takes hours, and is resumed or begun anew by ss.train",
    "tune_sae": "a search over trainings takes hours",
    "index_features": "an index is a file that other results read; ss.index_features makes it anew",
    "quiz_feature": "a quiz is blind: its items may not be seen twice",
    "label_feature": "a label is what somebody wrote; its score is of a blind quiz",
    "claim": "a claim is judged by the other results of the ledger",
    "find_saes": "it lists a catalogue, and computes nothing",
    "load_sae": "every script loads the SAE itself, and compares its weights",
    "publish_sae": "it writes files, and computes nothing",
}
"""Results that are shown only, and why."""

__all__ = ["NOT_AGAIN", "REPLAYS", "CannotReplayError", "Replay"]
