"""What we wrote into SQLite is not trusted when it is read: damage is found, said and made good,
and never shown as something else."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from saescope import database
from saescope.errors import ResourceError
from saescope.features import LabelStore
from saescope.features.labels.database import LABELS_DB
from saescope.notices import collected

SAE = "a" * 64
WORDS = {feature: f"names of number {feature} in a list of queens" for feature in range(40)}


def filled(path: Path) -> LabelStore:
    store = LabelStore(path)
    store.add_many(SAE, WORDS.items(), source="agent")
    return store


def shown(store: LabelStore) -> dict[int, str]:
    return {feature: label.text for feature, label in store.best(SAE, range(60)).items()}


def flipped(whole: bytes, rng: random.Random) -> bytes:
    torn = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 4, 200])):
        torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
    kind = rng.randrange(6)
    return bytes(torn[: rng.randrange(len(torn))] if kind == 0 else torn)


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_shows_another_label_and_none_is_lost(seed: int, tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.db")
    whole, rng = store.path.read_bytes(), random.Random(seed)
    store.path.write_bytes(flipped(whole, rng))
    with collected() as told:
        assert shown(store) == WORDS
        found, total = store.search(SAE, "queens", k=60)
        assert {label.feature: label.text for label in found} == WORDS and total == len(WORDS)
    assert not told or next(tmp_path.glob("labels.db.damaged-*")).name in told[0]
    assert store.add(SAE, 50, "a new one", source="you").text == "a new one"


@pytest.mark.parametrize("column", ["text", "feature", "weights_hash", "source", "detection", "id"])
def test_a_cell_that_another_program_changed_is_noticed(column: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.db")
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(f"UPDATE labels SET {column} = '77' WHERE feature = 3")
    with collected() as told:
        assert shown(store) == WORDS
    assert len(told) == 1 and "1 came from the last good copy" in told[0]


def test_where_nothing_can_be_written_the_good_rows_are_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "labels.db")
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE labels SET text = 'kings' WHERE feature = 3")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(database.os, "replace", full)
    with collected() as told:
        assert shown(store) == {f: text for f, text in WORDS.items() if f != 3}
    assert any("No space left" in line for line in told) and any("1 rows" in line for line in told)


def old_file(path: Path, *, wal: bool) -> None:
    """As earlier versions wrote it: no digests, with a write-ahead log."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        for table in LABELS_DB.tables:
            db.execute(table.sql.replace(", digest TEXT", ""))
        db.executescript(LABELS_DB.more)
        db.execute(
            "INSERT INTO labels VALUES (1, ?, 7, 'queens', 'queens', 'you', '2026', NULL, NULL)",
            [SAE],
        )
        for end in ("", "-wal", "-shm"):  # as a killed process leaves them
            if (file := Path(f"{path}{end}")).exists():
                file.with_name(f"old.db{end}").write_bytes(file.read_bytes())


@pytest.mark.parametrize("wal", [True, False])
def test_files_of_older_versions_are_taken_over_whole(wal: bool, tmp_path: Path) -> None:
    old_file(tmp_path / "labels.db", wal=wal)
    store = LabelStore(tmp_path / "old.db")
    assert [label.text for label in store.of(SAE, 7)] == ["queens"]
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert db.execute("SELECT count(*) FROM labels WHERE digest IS NULL").fetchone() == (0,)
    assert store.search(SAE, "queen")[1] == 1


def test_a_file_that_another_program_keeps_locked_is_an_error_after_a_bounded_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    store = filled(tmp_path / "labels.db")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ResourceError) as caught:
            store.of(SAE, 3)
        assert (
            caught.value.code == "LABELS_UNAVAILABLE"
            and "keeps labels.db locked" in caught.value.hint
        )
    assert shown(store) == WORDS


def test_a_label_that_was_removed_does_not_come_back(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.db")
    assert store.remove(store.of(SAE, 3)[0].id)
    store.path.write_bytes(b"torn")
    assert shown(store) == {f: text for f, text in WORDS.items() if f != 3}


def test_a_finished_file_is_read_without_a_lock_and_cannot_be_written(tmp_path: Path) -> None:
    store = filled(tmp_path / "labels.db")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with closing(database.connect(store.path, read_only=True)) as db:
            assert db.execute("SELECT count(*) FROM labels").fetchone() == (len(WORDS),)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                db.execute("DELETE FROM labels")
    assert shown(store) == WORDS


def test_a_file_that_is_not_there_is_not_made_by_reading_it(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        database.connect(tmp_path / "none.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
