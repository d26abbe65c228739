"""Evaluations: one file each."""

from saescope.evals.check import PROBE_TEXT, Check, check_sae

__all__ = ["PROBE_TEXT", "Check", "check_sae"]
