"""What a person sees where a command fails for a reason that nobody foresaw. Imports little:
what failed may be an import."""

import logging
import sys
import uuid

from saescope.errors import ISSUES

log = logging.getLogger("saescope")


def report_crash(command: str, error: Exception) -> int:
    """Write the traceback as the server logs it, then one line that says what to do with it; the
    status to exit with."""
    log_id = uuid.uuid4().hex[:8]
    log.error("%s crashed, log id %s", command, log_id, exc_info=error)
    sys.stderr.write(
        f"INTERNAL: {command} crashed ({type(error).__name__}); log id {log_id}. Next: this is a "
        f"fault of saescope: report it, with the lines above, at {ISSUES}\n"
    )
    return 1
