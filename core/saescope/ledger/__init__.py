"""Results by id: what was computed is kept, found again and verified when it is read."""

from saescope.ledger.claims import judge_claim
from saescope.ledger.entry import KeptEntry, result_id_of
from saescope.ledger.findings import CHANGING, findings
from saescope.ledger.investigations import Investigations
from saescope.ledger.store import Ledger, ResultFilter, ledger_path

__all__ = [
    "CHANGING",
    "Investigations",
    "KeptEntry",
    "Ledger",
    "ResultFilter",
    "findings",
    "judge_claim",
    "ledger_path",
    "result_id_of",
]
