"""A report run again in a process of its own, and compared line by line."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from saescope.cancel import stop_if_cancelled
from saescope.errors import NotFoundError, ResourceError
from saescope.names import home
from saescope.records.report import ReportCheck
from saescope.reports.comparison import check_of
from saescope.reports.data import ReportData, read_data
from saescope.reports.export import program_of
from saescope.reports.script import script
from saescope.reports.sources import missing_files

POLL_S = 0.2
MOST_TOLD = 400
"""Characters of what a process that failed says last."""


def check_report(path: str | Path, *, offline: bool = False) -> ReportCheck:
    """Compute the results of a report again, in a fresh process, and compare: which values are the
    same, which moved by how much, and which versions, models and weights are others.

    The code is made anew from `report.json`: what stands in `rerun.py`, which somebody may have
    changed, is not run.

    Raises:
        NotFoundError: REPORT_NOT_FOUND; or SOURCES_GONE: files that it needs are not there.
        FormatError: REPORT_DAMAGED.
        ResourceError: CHECK_FAILED: the process ended without an answer.
    """
    return checked(read_data(Path(path).expanduser()), offline=offline)


def checked(data: ReportData, *, offline: bool = False) -> ReportCheck:
    """`check_report` of what was read."""
    require_sources(data)
    with tempfile.TemporaryDirectory(prefix="saescope-check-") as folder:
        code, answer = Path(folder, "rerun.py"), Path(folder, "compared.json")
        code.write_text(script(program_of(data)), encoding="utf-8", errors="replace")
        said = _run([sys.executable, str(code), str(answer)], _environment(offline=offline))
        try:
            return check_of(json.loads(answer.read_text(encoding="utf-8")))
        except OSError as error:
            raise _failed(said or "the process said nothing") from error


def _failed(why: str) -> ResourceError:
    return ResourceError(
        f"The results could not be computed again: {why}.",
        code="CHECK_FAILED",
        field="check",
        hint="Run rerun.py of the report by hand: it says where it stops.",
    )


def require_sources(data: ReportData) -> None:
    """Raises NotFoundError: SOURCES_GONE: the files of all its SAEs or models are gone."""
    gone = {
        handle: missing
        for handle, source in data.sources.items()
        if (missing := missing_files(source))
    }
    if not gone or len(gone) < len(data.sources):
        return
    places = "; ".join(f"{handle}: {', '.join(missing)}" for handle, missing in gone.items())
    raise NotFoundError(
        f"The files that the results were computed with are gone ({places}).",
        code="SOURCES_GONE",
        field="check",
        got=places,
        allowed="the SAE's files where they were",
        hint="Put them back where they were, then check again.",
    )


def _environment(*, offline: bool) -> Mapping[str, str]:
    return {
        **os.environ,
        "SAESCOPE_HOME": str(home()),
        "PYTHONUNBUFFERED": "1",
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
    }


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    """Run it until it ends, or the caller gives up; the last that it says.

    Raises:
        ResourceError: CHECK_FAILED: it cannot be started.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment
            )
        except OSError as error:
            raise _failed(f"no further Python can be started ({error.strerror})") from error
        try:
            while process.poll() is None:
                stop_if_cancelled()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        text = said.read().decode("utf-8", "replace").strip()
    return text[-MOST_TOLD:].replace("\n", " ")
