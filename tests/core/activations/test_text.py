"""Documents: nothing lost in reading, the held-out part apart from the rest, and every bad input a
coded error."""

import json
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets.exceptions import DatasetNotFoundError
from pyarrow import parquet

from saescope import prints
from saescope.activations import is_held_out, open_dataset
from saescope.activations.readers import cut
from saescope.activations.text import EMBEDDED_CORPUS
from saescope.errors import SaescopeError

PROSE = "".join(
    f"Sentence number {i}, über alles ♥.{' ' if i % 7 else chr(10) * 2}" for i in range(3000)
)


def code_of(run: Callable[[], Any]) -> str:
    with pytest.raises(SaescopeError) as caught:
        run()
    return caught.value.code


def read(path: Path, text_column: str = "") -> list[str]:
    return list(open_dataset(str(path), text_column=text_column).documents())


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, columns: dict[str, list[Any]]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_the_documents_of_a_text_file_are_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE, encoding="utf-8")
    found = read(tmp_path / "a.txt")
    assert len(found) > 50 and "".join(found) == PROSE
    assert max(map(len, found)) <= 4000


@pytest.mark.parametrize("text", [PROSE, "x" * 20_000, "word " * 5000, "", "short", "a\n\nb"])
def test_where_a_text_is_cut_does_not_depend_on_how_it_is_read(text: str) -> None:
    whole = list(cut([text], 500))
    for block in (1, 333, 2000, 2001):
        assert list(cut([text[i : i + block] for i in range(0, len(text), block)], 500)) == whole
    assert "".join(whole) == text and all(whole)


def test_the_packaged_text_needs_no_network_and_has_a_held_out_part() -> None:
    documents = list(open_dataset("embedded").documents())
    assert "".join(documents) == lzma.decompress(EMBEDDED_CORPUS.read_bytes()).decode()
    assert sum(map(len, documents)) > 900_000 and EMBEDDED_CORPUS.stat().st_size < 350_000
    assert 0.005 < sum(map(is_held_out, documents)) / len(documents) < 0.05


def test_a_folder_is_all_its_files_in_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("two", encoding="utf-8")
    jsonl(tmp_path / "a.jsonl", {"text": "one"}, {"text": None}, {"text": ""})
    table(tmp_path / "sub" / "c.parquet", {"text": ["three", "four"]})
    (tmp_path / ".hidden.txt").write_text("no", encoding="utf-8")
    (tmp_path / "model.bin").write_bytes(b"no")
    assert read(tmp_path) == ["one", "two", "three", "four"]


def test_reading_can_begin_at_any_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE, encoding="utf-8")
    dataset = open_dataset(str(tmp_path / "a.txt"))
    assert list(dataset.documents(start=7)) == list(dataset.documents())[7:]


ROW = {"id": "x", "content": "hi", "n": 1}


@pytest.mark.parametrize(
    "write",
    [
        lambda p: jsonl(p / "a.jsonl", ROW),
        lambda p: table(p / "a.parquet", {key: [value] for key, value in ROW.items()}),
    ],
)
def test_the_text_column_is_found_or_named(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    assert read(path) == ["hi"]
    assert read(path, "id") == ["x"]
    assert code_of(lambda: read(path, "body")) == "COLUMN_NOT_FOUND"
    assert code_of(lambda: read(path, "n")) == "COLUMN_NOT_TEXT"


def test_several_columns_of_text_need_a_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"title": "a", "body": "b"})
    with pytest.raises(SaescopeError, match="not clear") as caught:
        read(path)
    assert caught.value.code == "COLUMN_NOT_FOUND" and "body" in caught.value.allowed
    assert 'text_column="title"' in caught.value.hint


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "torn.jsonl").write_text('{"text": "a"}\n{"text": "b', encoding="utf-8")
    (tmp_path / "list.jsonl").write_text("[1]\n", encoding="utf-8")
    whole = table(tmp_path / "x.parquet", {"text": ["abc"] * 100}).read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.docx").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    codes = {
        name: code_of(lambda name=name: read(tmp_path / name))
        for name in ("latin.txt", "torn.jsonl", "list.jsonl", "torn.parquet")
    }
    assert codes == {
        "latin.txt": "NOT_UTF8",
        "torn.jsonl": "FILE_CORRUPT",
        "list.jsonl": "FILE_CORRUPT",
        "torn.parquet": "FILE_CORRUPT",
    }
    assert code_of(lambda: open_dataset(str(tmp_path / "no.docx"))) == "UNKNOWN_FORMAT"
    assert code_of(lambda: open_dataset(str(tmp_path / "empty"))) == "DATASET_EMPTY"
    assert code_of(lambda: open_dataset(str(tmp_path / "nowhere.txt"))) == "FILE_MISSING"


def test_a_torn_line_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": "b', encoding="utf-8")
    with pytest.raises(SaescopeError, match="Line 3"):
        read(tmp_path / "a.jsonl")


def test_a_file_that_vanishes_is_a_coded_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello", encoding="utf-8")
    dataset = open_dataset(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").unlink()
    assert code_of(lambda: list(dataset.documents())) == "FILE_READ_ERROR"


@pytest.mark.skipif(os.name == "nt", reason="a link needs a privilege there")
def test_a_link_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret", encoding="utf-8")
    (inside / "a.txt").symlink_to(outside / "secret.txt")
    assert code_of(lambda: open_dataset(str(inside))) == "PATH_NOT_ALLOWED"
    assert list(open_dataset(str(inside), roots=[tmp_path]).documents()) == ["secret"]


@pytest.mark.skipif(os.name == "nt", reason="there are no device files")
def test_a_device_or_pipe_is_no_dataset() -> None:
    with pytest.raises(SaescopeError, match="'zero' is a device, not a file") as caught:
        open_dataset("/dev/zero")
    assert (caught.value.code, caught.value.field) == ("FILE_SUSPICIOUS", "dataset")


def test_the_fingerprint_changes_with_the_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello", encoding="utf-8")
    first = open_dataset(str(path)).fingerprint
    path.touch()
    assert open_dataset(str(path)).fingerprint == first
    path.write_text("hellu", encoding="utf-8")
    assert open_dataset(str(path)).fingerprint != first


@pytest.mark.parametrize("whole", [64 << 20, 1 << 20])
def test_the_fingerprint_sees_another_middle_of_the_same_length(
    whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that counts as large, where 64 KiB in a row are others."""
    monkeypatch.setattr(prints, "WHOLE_BYTES", whole)
    path, written = tmp_path / "a.txt", bytearray(b"text " * 400_000)
    path.write_bytes(written)
    first = open_dataset(str(path)).fingerprint
    length = 1 if whole > len(written) else 1 << 16
    written[1_000_000 : 1_000_000 + length] = b"X" * length
    path.write_bytes(written)
    assert open_dataset(str(path)).fingerprint != first


def test_copies_of_a_document_are_held_out_together() -> None:
    documents = [f"document {i}" for i in range(5000)]
    held_out = [d for d in documents if is_held_out(d)]
    assert 60 < len(held_out) < 140
    assert all(is_held_out(str(d)) for d in held_out) and not any(
        is_held_out(d, 0.0) for d in documents
    )


@pytest.mark.parametrize(
    "name", ["hf:", "hf:name", "hf:a/b:", "hf:../x", "hf:a/b/c/d", "hf:a/..", "hf:http://x/y"]
)
def test_what_is_no_dataset_name_is_refused(name: str) -> None:
    assert code_of(lambda: open_dataset(name)) == "INVALID_REPO_ID"


def hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(repo: str, config: str | None, *, split: str, streaming: bool) -> Any:
        calls.append((repo, config, split, streaming))
        return answer()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_dataset_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(
        monkeypatch,
        lambda: iter([{"text": "a", "id": 1}, {"text": "", "id": 2}, {"text": "b", "id": 3}]),
    )
    assert list(open_dataset("hf:owner/name:test").documents()) == ["a", "b"]
    assert list(open_dataset("hf:owner/name/config").documents(start=1)) == ["b"]
    assert calls == [("owner/name", None, "test", True), ("owner/name", "config", "train", True)]
    assert (
        code_of(lambda: list(open_dataset("hf:owner/name", text_column="body").documents()))
        == "COLUMN_NOT_FOUND"
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatasetNotFoundError("no"), "DATASET_NOT_FOUND"),
        (ValueError("Bad split: x. Available splits: ['train']"), "INVALID_CHOICE"),
        (ConnectionError("no"), "NOT_CACHED_OFFLINE"),
        (RuntimeError("Dataset scripts are no longer supported"), "FILE_CORRUPT"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_a_coded_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail() -> Iterator[Any]:
        raise error

    hub(monkeypatch, fail)
    assert code_of(lambda: list(open_dataset("hf:owner/name").documents())) == code


def test_without_a_network_the_hub_is_offline() -> None:
    assert code_of(lambda: list(open_dataset("hf:owner/name").documents())) == "NOT_CACHED_OFFLINE"
