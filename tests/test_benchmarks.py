"""The command that runs the benchmarks: its table, what it compares with, and what it skips."""

from pathlib import Path

import pytest
from benchmarks import __main__ as command
from benchmarks import rows
from benchmarks.figures import (
    Figure,
    before,
    line_of,
    merged,
    read_table,
    skipped,
    verdict,
    write_table,
)


def test_a_table_is_read_as_it_was_written_and_the_next_is_compared_with_it(tmp_path: Path) -> None:
    line = line_of("loading", Figure("alone", "<= 8", [12.0, 7.0, 9.0]), "")
    assert line[3:] == ("9", "7", "12", "", "misses")
    lines = [line, skipped("run", "no peer\nis here")]
    write_table(tmp_path / "2026-11-30.md", lines, "# Benchmarks")
    write_table(tmp_path / "2026-11-29.md", [line._replace(median="3")], "# Benchmarks")
    assert read_table(tmp_path / "2026-11-30.md") == lines
    assert before(tmp_path, "2026-12-01")["loading", "alone"] == "9"
    assert before(tmp_path, "2026-11-30")["loading", "alone"] == "3"
    assert before(tmp_path, "2026-11-29") == {}


def test_a_figure_is_judged_by_its_median_in_the_direction_of_its_target() -> None:
    assert [verdict("<= 0.5", 0.5), verdict("<= 0.5", 0.51)] == ["holds", "misses"]
    assert [verdict(">= 0.9", 0.9), verdict(">= 0.9", 0.89)] == ["holds", "misses"]
    assert verdict("", 3.0) == ""


def test_what_was_measured_today_is_replaced_by_a_measurement_and_not_by_a_skip() -> None:
    old, new = (line_of("run", Figure("ratio", ">= 3", [value]), "") for value in (2.0, 4.0))
    other = line_of("encode", Figure("ratio", ">= 3", [1.0]), "")
    assert merged([old, other], [new]) == [other, new]
    assert merged([old, other], [skipped("run", "no peer")]) == [old, other]
    assert merged([other], [skipped("run", "no peer")])[1].verdict == "skipped: no peer"


def test_without_a_peer_its_benchmarks_are_skipped_and_the_table_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needing = [name for name, row in rows.ROWS.items() if row.needs_peer]
    command.main([*needing, "--peer", "", "--results", str(tmp_path)])
    (table,) = tmp_path.glob("*.md")
    lines = read_table(table)
    assert [line.benchmark for line in lines] == needing
    assert all("--peer" in line.verdict for line in lines)
    assert capsys.readouterr().out.count("skipped") == len(needing)


def test_a_name_that_is_no_benchmark_is_refused_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        command.main(["lodaing"])
    assert "no benchmark lodaing; there are loading, " in capsys.readouterr().err


@pytest.mark.slow
def test_encoding_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    command.main(["encode", "--rounds", "1", "--results", str(tmp_path)])
    (table,) = tmp_path.glob("*.md")
    speed, growth = read_table(table)
    assert 0.1 < float(speed.median) < 1.2
    # a dense row would be 3,072 bytes an entry
    assert 0 < float(growth.median) < 100 and growth.verdict == "holds"
