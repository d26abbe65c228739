"""Results by id: what was computed is kept, found again and verified when it is read."""

from saescope.ledger.entry import KeptEntry, result_id_of
from saescope.ledger.investigations import Investigations
from saescope.ledger.store import Ledger, ResultFilter, ledger_path

__all__ = ["Investigations", "KeptEntry", "Ledger", "ResultFilter", "ledger_path", "result_id_of"]
