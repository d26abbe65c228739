"""Which results can be computed again, and how each is written as code of the library."""

from collections.abc import Mapping

from saescope.reports.replays.explaining import attribute_logit, intervene
from saescope.reports.replays.reading import top_features
from saescope.reports.replays.replay import CannotReplayError, Replay, Writer

REPLAYS: Mapping[str, Writer] = {
    "attribute_logit": attribute_logit,
    "intervene": intervene,
    "top_features": top_features,
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
