"""Evaluations: a quick check of an SAE on a probe text, and everything that is known to measure on
held-out text."""

from saescope.evals.check import PROBE_TEXT, Check, check_sae
from saescope.evals.evaluate import evaluate
from saescope.evals.set_check import check_set
from saescope.evals.verdict import what_a_score_means
from saescope.records.evaluation import (
    Baseline,
    Baselines,
    CrossEntropy,
    DensityBin,
    Evaluation,
    Interval,
    KLDivergence,
    LayerFit,
    PositionBin,
    Reason,
    SetCheck,
    Shrinkage,
    Verdict,
)

__all__ = [
    "PROBE_TEXT",
    "Baseline",
    "Baselines",
    "Check",
    "CrossEntropy",
    "DensityBin",
    "Evaluation",
    "Interval",
    "KLDivergence",
    "LayerFit",
    "PositionBin",
    "Reason",
    "SetCheck",
    "Shrinkage",
    "Verdict",
    "check_sae",
    "check_set",
    "evaluate",
    "what_a_score_means",
]
