"""Run the attacks of tests/attack for an hour at most, go on where the last run stopped, and write
docs/attack.md.

ATTACK_SEED draws other cases (a date by default), ATTACK_MINUTES is the time (60), ATTACK_ARGS are
pytest's own options. What has finished is in build/attack.json; tests that failed are tried again,
and once all have held the next run begins anew.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
STATE = ROOT / "build" / "attack.json"
PAGE = ROOT / "docs" / "attack.md"
PACKAGES = ("saescope", "torch", "transformers", "transformer-lens", "mcp", "safetensors", "numpy")
HEAD = """# Attacks

What tries to break saescope, and what came of it: `make attack` runs every test of `tests/attack`,
the quick ones of `make test` included, and writes this page. Cases are drawn from a seed. A run
stops after an hour and the next one goes on; a group's row says when its last test ran, and on
which commit.

"""


@dataclass
class Outcome:
    """How one test ended, case by case."""

    group: str
    what: str
    outcome: str
    cases: int
    failures: list[str]
    seconds: float
    day: str
    commit: str


@dataclass
class State:
    """What has been tried with one seed on one set of packages."""

    seed: str
    versions: dict[str, str]
    tests: dict[str, Outcome] = field(default_factory=dict[str, Outcome])

    @classmethod
    def read(cls) -> "State":
        """The state to go on with: that of the last run, or a new one when nothing of it is left to
        do."""
        today = datetime.now(UTC).strftime("%Y%m%d")
        new = cls(os.environ.get("ATTACK_SEED") or today, versions())
        if not STATE.is_file():
            return new
        kept = json.loads(STATE.read_text(encoding="utf-8"))
        seed = os.environ.get("ATTACK_SEED") or kept["seed"]
        if kept["finished"] or (kept["seed"], kept["versions"]) != (seed, new.versions):
            return new
        tests = {name: Outcome(**outcome) for name, outcome in kept["tests"].items()}
        return cls(seed, new.versions, tests)

    def write(self, *, finished: bool = False) -> None:
        STATE.parent.mkdir(exist_ok=True)
        new = STATE.with_suffix(".new")
        new.write_text(
            json.dumps(asdict(self) | {"finished": finished}, indent=1), encoding="utf-8"
        )
        new.replace(STATE)


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "-"


class Recorder:
    """The pytest plugin: leaves out what has held, stops in time, and keeps each test's outcome as
    it ends."""

    def __init__(self, state: State, *, minutes: float) -> None:
        self.state, self.commit = state, commit()
        self.end = time.monotonic() + 60 * minutes
        self.wanted: dict[str, str] = {}
        """Every collected test, with its group and what the group tries."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        self.wanted = {item.nodeid: group_of(item) for item in items}
        done = [item for item in items if self.outcome(item) == "passed"]
        # What was never tried comes first, what failed is tried again afterwards.
        items[:] = sorted(
            (item for item in items if item not in done), key=lambda item: self.outcome(item) != ""
        )
        config.hook.pytest_deselected(items=done)

    def outcome(self, item: pytest.Item) -> str:
        tried = self.state.tests.get(item.nodeid)
        return tried.outcome if tried else ""

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.when == "teardown" and time.monotonic() > self.end and item.session:
            item.session.shouldstop = "the time is over: the next run goes on from here"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kept = self.state.tests.get(report.nodeid)
        if report.when == "setup" and report.passed:
            self.state.tests.pop(report.nodeid, None)
        elif report.when == "call" or not report.passed:
            self.state.tests[report.nodeid] = self.made(report)
        elif kept and report.when == "teardown":
            properties: dict[str, Any] = dict(report.user_properties)
            kept.cases = properties.get("cases", 1)
            kept.failures = properties.get("failures") or kept.failures
            self.state.write()

    def made(self, report: pytest.TestReport) -> Outcome:
        group, _, what = self.wanted[report.nodeid].partition("\n")
        reason = "" if report.passed else str(report.longreprtext).strip().splitlines()[-1][:300]
        return Outcome(
            group=group,
            what=what,
            outcome=report.outcome,
            cases=1,
            failures=[reason] if reason else [],
            seconds=round(report.duration, 1),
            day=datetime.now(UTC).strftime("%Y-%m-%d"),
            commit=self.commit,
        )


def group_of(item: pytest.Item) -> str:
    """The test's file in words, and the first paragraph of its docstring."""
    what = (getattr(item, "module").__doc__ or "").partition("\n\n")[0]  # noqa: B009
    name = item.path.stem.removeprefix("test_").replace("_", " ")
    return f"{name}\n{' '.join(what.split())}"


def table(state: State, wanted: dict[str, str]) -> str:
    groups = defaultdict[str, list[str]](list)
    for name, group in wanted.items():
        groups[group].append(name)
    rows = [row(state, group, names) for group, names in sorted(groups.items())]
    said = ", ".join(f"{name} {number}" for name, number in state.versions.items())
    failed = [
        f"- `{name}`: {text}"
        for name, tried in state.tests.items()
        for text in map(one_line, tried.failures[:3])
        if name in wanted
    ]
    parts = [
        f"Seed {state.seed}; {platform.system()}, {os.cpu_count()} cores; {said}.\n",
        "| group | what is tried | cases | held | failed | tests not run | seconds | last run |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    return (
        HEAD
        + "\n".join([*parts, *(["", "## What failed or was skipped", *failed] if failed else [])])
        + "\n"
    )


def row(state: State, group: str, names: list[str]) -> str:
    name, _, what = group.partition("\n")
    tried = [state.tests[test] for test in names if test in state.tests]
    cases = sum(one.cases for one in tried if one.outcome != "skipped")
    failed = sum(len(one.failures) for one in tried if one.outcome == "failed")
    left = len(names) - sum(one.outcome != "skipped" for one in tried)
    seconds = round(sum(one.seconds for one in tried))
    last = max(((one.day, one.commit) for one in tried), default=("-", ""))
    cells = [name, what, cases, cases - failed, failed, left, seconds, " ".join(last).strip()]
    return "| " + " | ".join(map(str, cells)) + " |"


def one_line(text: str) -> str:
    """A failure as it may stand in a page: one line, whatever the hostile input did to the
    message."""
    plain = text.replace("|", "/").replace("`", "'").replace("<", "&lt;").split("\n")[0][:200]
    return "".join(char if char.isprintable() else "?" for char in plain)


def main() -> int:
    sys.path.insert(0, str(ROOT))  # processes that a test forks import it by name
    state = State.read()
    os.environ["ATTACK_SEED"] = state.seed
    recorder = Recorder(state, minutes=float(os.environ.get("ATTACK_MINUTES", "60")))
    given = shlex.split(os.environ.get("ATTACK_ARGS", ""))
    chosen = [
        "-m",
        "not slow and not network and not gpu and not clients",
        "-ra",
        "-q",
        "tests/attack",
    ]
    code = pytest.main([*chosen, *given], plugins=[recorder])
    held = all(
        name in state.tests and state.tests[name].outcome == "passed" for name in recorder.wanted
    )
    state.write(finished=held and not given)
    if recorder.wanted and not given:
        PAGE.write_text(table(state, recorder.wanted), encoding="utf-8")
    return 0 if held else int(code) or 1


if __name__ == "__main__":
    sys.exit(main())
