"""Kept results: found by what they say, never shown where they are not what was written, bounded,
and written by several processes at once."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from saescope.errors import ArgumentError, FormatError, NotFoundError, ResourceError
from saescope.ledger import KeptEntry, Ledger, ResultFilter, result_id_of
from saescope.ledger.files import file_of

LONG_AGO = (datetime.now(UTC) - timedelta(days=40)).isoformat(timespec="seconds")


def entry(text: str = "the sea", *, sae: str = "m/1.x", x: float = 1.5, **more: Any) -> KeptEntry:
    document = {"summary": f"Feature 3 fires on {text}.", "evidence": "observed", "x": x}
    arguments = {"sae": sae, "text": text}
    return KeptEntry(tool="top_features", arguments=arguments, document=document, **more)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def test_a_result_comes_back_as_it_was_and_once(ledger: Ledger) -> None:
    kept = entry()
    assert ledger.keep(kept) and not ledger.keep(entry())
    assert ledger.bring(kept.result_id) == kept
    (row,), total = ledger.find()
    assert total == 1 and (row.tool, row.about, row.evidence) == (
        "top_features",
        ("m/1.x",),
        "observed",
    )


def test_an_id_rests_on_call_versions_and_numbers_and_on_nothing_of_the_moment() -> None:
    document = {"x": 1.5, "provenance": {"versions": {"torch": "2"}}}
    one = result_id_of("t", {"a": 1}, document)
    others = [
        result_id_of("u", {"a": 1}, document),
        result_id_of("t", {"a": 2}, document),
        result_id_of("t", {"a": 1}, document | {"x": 1.6}),
        result_id_of("t", {"a": 1}, document | {"provenance": {"versions": {"torch": "3"}}}),
    ]
    assert len({one, *others}) == 5 and len(one) == 12
    moment = {"next": ["f()"], "warnings": ["slow"], "job_id": "load-1", "memory": 7}
    assert result_id_of("t", {"a": 1}, document | moment, left_out=["memory"]) == one


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ResultFilter(text="SEA fires"), ["the sea", "the sea at night"]),
        (ResultFilter(text="a king"), ["a king"]),
        (ResultFilter(sae="m/2.x"), ["a king"]),
        (ResultFilter(tool="intervene"), []),
        (ResultFilter(tool="top_features", text="night"), ["the sea at night"]),
        (ResultFilter(day=LONG_AGO[:10]), ["the sea at night"]),
        (ResultFilter(text="%"), []),
    ],
)
def test_results_are_found_by_words_sae_tool_and_day(
    wanted: ResultFilter, found: list[str], ledger: Ledger
) -> None:
    for each in (
        entry(),
        entry("a king", sae="m/2.x"),
        entry("the sea at night", created=LONG_AGO),
    ):
        ledger.keep(each)
    rows, total = ledger.find(wanted)
    assert sorted(row.says for row in rows) == sorted(f"Feature 3 fires on {t}." for t in found)
    assert total == len(found)
    assert len(ledger.find(wanted, limit=1)[0]) == min(1, total)


@pytest.mark.parametrize("change", ["number", "torn", "gone", "other", "empty", "folder"])
def test_an_entry_that_is_not_as_it_was_written_is_an_error_and_comes_back_when_it_is_made_again(
    change: str, ledger: Ledger
) -> None:
    kept, other = entry(), entry("a king")
    ledger.keep(kept)
    ledger.keep(other)
    file = file_of(ledger.folder, kept.result_id)
    whole = file.read_bytes()
    match change:
        case "gone":
            file.unlink()
        case "folder":
            file.unlink()
            file.mkdir()
        case "other":
            file.write_bytes(file_of(ledger.folder, other.result_id).read_bytes())
        case _:
            changed = {"number": whole.replace(b"1.5", b"9.5"), "torn": whole[:-9], "empty": b""}
            file.write_bytes(changed[change])
    with pytest.raises(FormatError) as caught:
        ledger.bring(kept.result_id)
    assert caught.value.code == "RESULT_DAMAGED" and "top_features again" in caught.value.hint
    if change == "folder":
        file.rmdir()
    assert ledger.keep(entry()) and ledger.bring(kept.result_id).document == kept.document


def test_a_number_that_was_changed_in_file_and_table_alike_is_noticed(ledger: Ledger) -> None:
    from saescope.ledger.files import LEDGER_DB, RESULTS, row_of

    kept = entry()
    ledger.keep(kept)
    forged = entry(x=9.5).to_bytes()
    file_of(ledger.folder, kept.result_id).write_bytes(forged)
    with LEDGER_DB.open(ledger.folder / "ledger.db") as db:
        LEDGER_DB.update(
            db, RESULTS, kept.result_id, {"sha256": row_of(entry(x=9.5), forged)["sha256"]}
        )
    with pytest.raises(FormatError, match="another call"):
        ledger.bring(kept.result_id)


@pytest.mark.parametrize("damage", ["gone", "torn", "cell"])
def test_the_table_is_made_anew_from_the_files(damage: str, ledger: Ledger) -> None:
    kept = [entry(f"text {i}") for i in range(20)]
    for each in kept:
        ledger.keep(each)
    table = ledger.folder / "ledger.db"
    match damage:
        case "gone":
            table.unlink()
        case "torn":
            table.write_bytes(table.read_bytes()[:5000])
        case _:
            with closing(sqlite3.connect(table)) as db, db:
                db.execute("UPDATE results SET summary = 'Feature 3 causes everything.'")
    assert ledger.find(limit=50)[1] == 20
    assert {row.says for row in ledger.find(limit=50)[0]} == {each.summary for each in kept}
    assert [ledger.bring(each.result_id) for each in kept] == kept


def test_an_unknown_id_names_what_lists_the_known_ones(ledger: Ledger) -> None:
    for asked in ("0" * 12, "../../handles", "' OR 1=1 --", ""):
        with pytest.raises(NotFoundError) as caught:
            ledger.bring(asked)
        assert caught.value.code == "RESULT_NOT_FOUND"


def test_what_is_old_goes_unless_it_was_seen_again_or_is_in_an_investigation(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "ledger", max_days=30)
    old, seen, named = (entry(text, created=LONG_AGO) for text in ("old", "seen", "named"))
    for each in (seen, named):
        Ledger(ledger.folder).keep(each)
        if each is seen:
            Ledger(ledger.folder).keep(each)
    ledger.investigations.add("mine", [named.result_id])
    Ledger(ledger.folder).keep(old)
    ledger.keep(entry("new"))
    left = {row.says.split()[-1] for row in ledger.find()[0]}
    assert left == {"seen.", "named.", "new."}
    with pytest.raises(NotFoundError):
        ledger.bring(old.result_id)
    assert not file_of(ledger.folder, old.result_id).exists()


def test_the_ledger_stays_within_its_bytes_and_the_oldest_go_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", max_bytes=60_000)
    first = entry("text 0", created="2020-01-01T00:00:00+00:00")
    ledger.keep(first)
    ledger.investigations.add("mine", [first.result_id])
    for i in range(1, 40):
        ledger.keep(entry(f"text {i}", created=f"2026-01-01T00:00:{i:02d}+00:00"))
    rows, total = ledger.find(limit=50)
    assert 5 < total < 12
    assert {row.says for row in rows} == {
        f"Feature 3 fires on text {i}." for i in (0, *range(41 - total, 40))
    }
    n_files = sum(1 for _ in ledger.folder.glob("results/*/*.json"))
    assert n_files == total


def test_an_investigation_is_a_list_of_results_with_notes(ledger: Ledger) -> None:
    one, two = entry(), entry("a king")
    lists = ledger.investigations
    assert lists.all() == []
    lists.add("sea", [one.result_id], note="the control")
    lists.add("sea", [two.result_id, one.result_id])
    made = lists.add("sea", [], note="What fires on the sea?")
    assert (made.note, made.result_ids, made.notes) == (
        "What fires on the sea?",
        (one.result_id, two.result_id),
        ("the control", ""),
    )
    assert lists.remove("sea", [one.result_id]).result_ids == (two.result_id,)
    assert [each.name for each in lists.all()] == ["sea"]
    with pytest.raises(NotFoundError, match="no investigation 'see'") as caught:
        lists.of("see")
    assert "sea" in caught.value.hint
    for name in ("", "../x", "a b", "x" * 65):
        with pytest.raises(ArgumentError, match="no name"):
            lists.add(name, [])


_WRITER = """
import sys
from pathlib import Path
from saescope.ledger import KeptEntry, Ledger
ledger = Ledger(Path(sys.argv[1]))
for i in range(40):
    number = i if i % 2 else f"{sys.argv[2]}-{i}"
    document = {"summary": str(number), "evidence": None}
    ledger.keep(KeptEntry(tool="t", arguments={"text": str(number)}, document=document))
    ledger.investigations.add("both", [f"{sys.argv[2]}{i}"])
"""


def test_two_processes_write_at_once_and_nothing_is_lost(ledger: Ledger) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(ledger.folder), name])
        for name in ("a", "b")
    ]
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    rows, total = ledger.find(limit=100)
    assert total == 60 and len({row.result_id for row in rows}) == 60
    assert all(ledger.bring(row.result_id).summary == row.says for row in rows)
    assert len(ledger.investigations.of("both").result_ids) == 80
    assert not [*ledger.folder.glob("*damaged*")]


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("not a folder")
    with pytest.raises(ResourceError) as caught:
        Ledger(tmp_path / "ledger").keep(entry())
    assert caught.value.code == "LEDGER_UNAVAILABLE"
    assert Ledger(tmp_path / "ledger").find() == ([], 0)


def test_an_entry_is_a_file_that_other_programs_read(ledger: Ledger) -> None:
    kept = entry()
    ledger.keep(kept)
    said = json.loads(file_of(ledger.folder, kept.result_id).read_text(encoding="utf-8"))
    assert said["document"] == kept.document and said["arguments"] == kept.arguments
