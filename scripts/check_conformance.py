"""Run every scenario of the official MCP conformance suite against `saescope serve --http`, and
write docs/conformance.md.

    python scripts/check_conformance.py .clients/node_modules/.bin/conformance [--check]

Fails where a scenario fails without a reason below; with --check also where the page is no longer
what comes out.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
FIXTURE = "asks for fixtures of the suite's own example server: {}"
BY_OUR_ERROR = ("tools-call-simple-text", "input-required-result-")
"""They pass, but only because our answer to their unknown tool has the shape that they look for."""
REASONS = {
    "server-stateless": "26 of 28 checks pass; the other two need the fixture tool "
    "`test_missing_capability`",
    "logging-set-level": "protocol logging is deprecated (SEP-2577): the log goes to stderr",
    "tools-call-with-logging": "protocol logging is deprecated (SEP-2577)",
    "tools-call-sampling": "never asks the client's model for anything",
    "tools-call-elicitation": "never asks the user through the client: what needs a yes is an "
    "argument (dry_run)",
    "elicitation-": "never asks the user through the client",
    "tools-call-": FIXTURE.format("tools that return images, audio, resources or progress"),
    "json-schema-2020-12": FIXTURE.format("a tool whose schema has $defs; ours are flat"),
    "server-sse-polling": FIXTURE.format("test_reconnection"),
    "resources-read-": FIXTURE.format("test://static-..."),
    "resources-templates-read": FIXTURE.format("test://template/{id}/data"),
    "resources-subscribe": "no subscriptions: job_status waits instead",
    "resources-unsubscribe": "no subscriptions",
    "prompts-get-": FIXTURE.format("test_..._prompt"),
    "http-custom-header-server-validation": "no tool asks for headers of its own",
    "tasks-": "the Tasks extension is not in the SDK, and clients hardly use it: long calls "
    "return a job_id",
    "input-required-result-": FIXTURE.format("tools that ask back"),
}


class Outcome(NamedTuple):
    """What the suite said of one scenario."""

    scenario: str
    versions: str
    passed: int
    failed: int

    @property
    def reason(self) -> str:
        return next(
            (reason for start, reason in REASONS.items() if self.scenario.startswith(start)), ""
        )


def scenarios(binary: str) -> list[tuple[str, str]]:
    """Name and protocol versions of each."""
    listed = subprocess.run(
        [binary, "list", "--server"], capture_output=True, text=True, check=True
    ).stdout
    return re.findall(r"^  - (\S+) \[(.+)\]$", listed, flags=re.MULTILINE)


def judge(binary: str, url: str, scenario: str, versions: str) -> Outcome:
    """In the newest version, and if that passes in every other one."""
    command = [binary, "server", "--url", url, "--scenario", scenario]
    passed, failed = counts(command)
    for version in versions.split(",") if not failed and "extension" not in versions else ():
        failed += counts([*command, "--spec-version", version])[1]
    return Outcome(scenario, versions.replace(",", ", "), passed, failed)


def counts(command: list[str]) -> tuple[int, int]:
    """Checks that passed and that failed."""
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout
    found = re.search(r"Passed: (\d+)/\d+, (\d+) failed", said)
    if not found:
        sys.exit(f"{command} gave no result:\n{said[-2000:]}")
    return int(found[1]), int(found[2])


@contextmanager
def server() -> Generator[str]:
    """A server of its own on a free port."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    command = [sys.executable, "-m", "saescope_mcp", "--http", "--port", str(port)]
    with subprocess.Popen(
        command, env={**os.environ, "SAESCOPE_OFFLINE": "1"}, stderr=subprocess.DEVNULL
    ) as running:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            running.terminate()


def _wait_for(port: int) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("The server does not listen.")


def page(outcomes: list[Outcome], version: str) -> str:
    passed = [outcome for outcome in outcomes if not outcome.failed and outcome.passed]
    rows = "".join(
        f"| `{outcome.scenario}` | {outcome.versions} | {outcome.passed} |{_aside(outcome)} |\n"
        for outcome in passed
    )
    why: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome not in passed:
            reason = outcome.reason if outcome.failed else "none of its checks applies"
            why.setdefault(reason, []).append(f"`{outcome.scenario}`")
    reasons = "".join(f"| {', '.join(names)} | {reason} |\n" for reason, names in why.items())
    return f"""# Conformance

Generated by `scripts/check_conformance.py`: do not edit. Every server scenario of the official
suite ({version}) against `saescope serve --http`, those that pass in each of their
protocol versions.

## Passed: {len(passed)} of {len(outcomes)}
| scenario | protocol versions | checks | |
|---|---|---|---|
{rows}
## Do not apply: {len(outcomes) - len(passed)}
| scenarios | why |
|---|---|
{reasons}"""


def _aside(outcome: Outcome) -> str:
    return (
        " its tool is unknown here: our error has the shape that it looks for"
        if outcome.scenario.startswith(BY_OUR_ERROR)
        else ""
    )


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binary = sys.argv[1]
    version = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with server() as url, ThreadPoolExecutor(2) as pool:
        outcomes = [*pool.map(lambda each: judge(binary, url, *each), scenarios(binary))]
    unexplained = [
        outcome.scenario for outcome in outcomes if outcome.failed and not outcome.reason
    ]
    if unexplained:
        sys.exit(f"These fail without a reason: {', '.join(unexplained)}.")
    wanted = page(outcomes, f"@modelcontextprotocol/conformance {version}")
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != wanted:
        sys.exit(
            "docs/conformance.md does not match: run this without --check and commit the result."
        )


if __name__ == "__main__":
    main()
