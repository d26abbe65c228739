"""Texts from a file give what the same texts give in the call, and errors that name the file, the
column and the next step."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from tests.server.helpers import call, refuse

from saescope.activations import read_texts
from saescope.errors import ArgumentError
from saescope.metrics import RunningFit
from saescope_mcp.replies.steps import next_step
from saescope_mcp.state import AppState

TEXTS = ['A cat sat, "well".', "Two dogs ran away; far.", "The old man went\tto the sea."]
OTHERS = ["It was a dark night.", "She said nothing at all."]
SIX = [f"The {word} sat on a chair." for word in ("cat", "dog", "man", "girl", "king", "fox")]


def written(folder: Path, suffix: str, texts: list[str], column: str = "body") -> Path:
    """The texts in a file of that kind, next to a column of numbers and a blank row."""
    path = folder / f"messages{suffix}"
    rows = [{"id": i, column: text} for i, text in enumerate([*texts, ""])]
    if suffix == ".txt":
        path.write_text("\n".join([*texts, "", " "]) + "\n", encoding="utf-8")
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "\t" if suffix == ".tsv" else ","
            table = csv.DictWriter(file, ["id", column], delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    return path


@pytest.fixture
def folder(sae_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inside what the tiny server may read."""
    made = sae_dir.parent / tmp_path_factory.mktemp("texts").name
    made.mkdir()
    return made


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".txt"])
async def test_a_file_gives_what_the_same_texts_give(
    tiny: AppState, sae: str, folder: Path, suffix: str
) -> None:
    path = str(written(folder, suffix, TEXTS))
    for tool, more in (("top_features", {}), ("encode_text", {"limit": 40}), ("find_features", {})):
        listed = await call(tiny, tool, sae=sae, texts=TEXTS, **more)
        read = await call(tiny, tool, sae=sae, texts_file=path, **more)
        (digest,) = read["provenance"].pop("files").values()
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest().startswith(digest)
        same = {name for name in listed if name not in ("summary", "next", "result_id")}
        assert {name: read[name] for name in same} == {name: listed[name] for name in same}
    shown = await call(tiny, "top_features", sae=sae, texts_file=path, k=2)
    assert shown["summary"].startswith(f"3 texts of messages{suffix}: ")
    assert any("texts_file=" in step and "offset=2" in step for step in shown["next"])


async def test_two_files_are_contrasted(tiny: AppState, sae: str, folder: Path) -> None:
    left = str(written(folder, ".csv", TEXTS))
    right = str(written(folder, ".jsonl", OTHERS))
    for tool, more in (("top_features", {"rank_by": "contrast"}), ("find_features", {})):
        listed = await call(tiny, tool, sae=sae, texts=TEXTS, against=OTHERS, **more)
        files = {"texts_file": left, "against_file": right, "texts_column": "body"}
        read = await call(tiny, tool, sae=sae, **files, **more)
        assert read["features"] == listed["features"]
        assert "3 texts of messages.csv against 2 of messages.jsonl: " in read["summary"]


async def test_two_columns_of_one_file_are_contrasted(
    tiny: AppState, sae: str, folder: Path
) -> None:
    pairs = list(zip(TEXTS, OTHERS, strict=False))
    path, n = folder / "pairs.csv", len(pairs)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("said", "meant"), *pairs])
    files = {"texts_file": str(path), "texts_column": "said", "against_file": str(path)}
    for tool, more in (("top_features", {"rank_by": "contrast"}), ("find_features", {})):
        listed = await call(tiny, tool, sae=sae, texts=TEXTS[:n], against=OTHERS[:n], **more)
        read = await call(tiny, tool, sae=sae, **files, against_column="meant", **more)
        assert read["features"] == listed["features"]
        same = await refuse(tiny, tool, sae=sae, **files, **more)
        assert same["field"] == "against_column"
        missing = await refuse(tiny, tool, sae=sae, **files, against_column="none", **more)
        assert (missing["code"], missing["field"]) == ("COLUMN_NOT_FOUND", "against_column")
        assert 'against_column="' in missing["hint"]
    alone = await refuse(tiny, "find_features", sae=sae, texts=TEXTS, against_column="meant")
    assert alone["field"] == "against_file"


def in_columns(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"columns{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*rows[0]])
            table.writeheader()
            table.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
async def test_a_column_of_labels_makes_two_sides_and_one_of_groups_names_documents(
    tiny: AppState, sae: str, folder: Path, suffix: str
) -> None:
    texts = [f"The {word} sat on a chair." for word in ("cat", "dog", "man", "girl")]
    others = [f"A {word} was in the house." for word in ("cat", "king", "boy", "fox")]
    sides = [(text, "no", f"d{i // 2}") for i, text in enumerate(others)]
    sides += [(text, "yes", f"e{i // 2}") for i, text in enumerate(texts)]
    rows = [{"body": t, "polite": label, "source": group} for t, label, group in sides]
    rows.insert(3, {"body": "", "polite": "maybe", "source": "d9"})  # a blank text is no row
    path = in_columns(folder, suffix, rows)
    files = {"texts_file": path, "texts_column": "body", "unconfirmed": True}
    split = await call(tiny, "find_features", sae=sae, **files, label_column="polite")
    listed = await call(
        tiny, "find_features", sae=sae, texts=texts, against=others, unconfirmed=True
    )
    assert split["features"] == listed["features"] and split["contrast"] == listed["contrast"]
    assert (
        f"4 texts of columns{suffix} with polite = yes against 4 with polite = no"
        in (split["summary"])
    )
    assert "Too few texts (4" in split["summary"]
    turned = await call(tiny, "find_features", sae=sae, **files, label_column="polite=no")
    back = await call(tiny, "find_features", sae=sae, texts=others, against=texts, unconfirmed=True)
    assert turned["features"] == back["features"]
    assert "with polite = no against 4 with polite = yes" in turned["summary"]
    grouped = await call(
        tiny, "find_features", sae=sae, **files, label_column="polite", group_column="source"
    )
    documents = [row[2] for row in [*sides[4:], *sides[:4]]]
    named = await call(
        tiny,
        "find_features",
        sae=sae,
        texts=texts,
        against=others,
        documents=documents,
        unconfirmed=True,
    )
    assert grouped["features"] == named["features"]
    assert "Too few documents (2" in grouped["summary"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
async def test_rows_without_a_label_stand_on_no_side(
    tiny: AppState, sae: str, folder: Path, suffix: str
) -> None:
    labels = [1.0, 0.0, None, 1.0, 0.0, None]  # as tables write 1 and 0 where one is missing
    rows = [{"body": text, "good": label} for text, label in zip(SIX, labels, strict=True)]
    files = {"texts_file": in_columns(folder, suffix, rows), "texts_column": "body"}
    texts, others = ([row["body"] for row in rows if row["good"] == side] for side in (1, 0))
    asked = {"sae": sae, "unconfirmed": True}
    listed = await call(tiny, "find_features", **asked, texts=texts, against=others)
    for column in ("good", "good=1", "good=1.0", "good= 1"):
        split = await call(tiny, "find_features", **asked, **files, label_column=column)
        assert split["features"] == listed["features"]
        assert "2 texts of" in split["summary"]
        assert "against 2 with good = 0 (2 without a label left out)" in split["summary"]


async def test_a_column_of_marks_sets_marked_texts_against_the_rest(
    tiny: AppState, sae: str, folder: Path
) -> None:
    rows = [{"body": text, "mark": "x" if i < 3 else ""} for i, text in enumerate(SIX)]
    files = {"texts_file": in_columns(folder, ".csv", rows), "texts_column": "body"}
    split = await call(tiny, "find_features", sae=sae, **files, label_column="mark")
    assert "3 texts of columns.csv with mark = x against 3 with nothing in mark" in split["summary"]


async def test_what_is_wrong_with_columns_of_labels_and_groups_is_said(
    tiny: AppState, sae: str, folder: Path
) -> None:
    rows = [{"body": text, "kind": i, "one": "a"} for i, text in enumerate([*TEXTS, *OTHERS])]
    files = {"texts_file": in_columns(folder, ".csv", rows), "texts_column": "body"}
    for more, field in (
        ({"label_column": "kind"}, "label_column"),
        ({"label_column": "one"}, "label_column"),
        ({"label_column": "none"}, "label_column"),
        ({"label_column": "kind", "against": TEXTS}, "label_column"),
        ({"group_column": "kind"}, "against"),
        ({"group_column": "none", "label_column": "kind"}, "group_column"),
    ):
        wrong = await refuse(tiny, "find_features", sae=sae, **files, **more)
        assert wrong["field"] == field, more
    alone = await refuse(tiny, "find_features", sae=sae, texts=TEXTS, label_column="kind")
    assert alone["field"] == "texts_file"


async def test_plain_text_has_no_columns(tiny: AppState, sae: str, folder: Path) -> None:
    lines = str(written(folder, ".txt", TEXTS))
    named = await refuse(tiny, "top_features", sae=sae, texts_file=lines, texts_column="body")
    assert (named["code"], named["field"]) == ("COLUMN_NOT_FOUND", "texts_column")
    table = str(written(folder, ".csv", OTHERS))
    files = {"texts_file": table, "texts_column": "body", "against_file": lines}
    assert (await call(tiny, "top_features", sae=sae, **files, rank_by="contrast"))["features"]
    again = {"texts_file": lines, "against_file": f"{folder}/./{Path(lines).name}"}
    same = await refuse(tiny, "top_features", sae=sae, **again, rank_by="contrast")
    assert same["code"] == "CONFLICTING_ARGUMENTS"


async def test_a_file_may_hold_more_than_a_call(
    tiny: AppState, sae: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tiny.settings.model_copy(update={"max_tokens_per_call": 150})
    monkeypatch.setattr(tiny, "settings", few)
    many = [f"Number {i}." for i in range(110)]
    path = str(written(folder, ".csv", many))
    read = await call(tiny, "top_features", sae=sae, texts_file=path, k=1)
    assert read["n_tokens"] > tiny.settings.max_tokens_per_call > len(many)
    error = await refuse(tiny, "top_features", sae=sae, texts=many)
    assert error["code"] == "TOO_MANY_ITEMS" and "texts_file" in error["hint"]


def test_a_text_that_is_too_long_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a cat"}\n{"text": "a very long dog"}\nno JSON\n')
    with pytest.raises(ArgumentError, match="Text 1 ") as caught:
        read_texts(path, column="text", most=10, most_chars=12)
    assert (caught.value.code, caught.value.got, caught.value.allowed) == ("TOO_LONG", "15", "12")


def test_the_limit_of_texts_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, ".txt", [str(i) for i in range(11)])
    assert len(read_texts(path, most=11)) == 11
    with pytest.raises(ArgumentError, match="more than 10 texts") as caught:
        read_texts(path, most=10)
    assert "SAESCOPE_MAX_FILE_TEXTS" in next_step(caught.value)


@pytest.mark.parametrize(
    ("rows", "more", "code", "field", "hint"),
    [
        ([{"a": "x y", "b": "z w"}], {}, "COLUMN_NOT_FOUND", "texts_column", 'texts_column="a"'),
        ([{"a": "x"}], {"texts_column": "c"}, "COLUMN_NOT_FOUND", "texts_column", 'column="a"'),
        ([{"a": 3}], {"texts_column": "a"}, "COLUMN_NOT_TEXT", "texts_column", "texts_column"),
        ([{"text": " "}], {}, "DATASET_EMPTY", "texts_file", "texts_column"),
        ([3], {}, "FILE_CORRUPT", "texts_file", "one JSON object a line"),
        ([{"text": "x" * 300000}], {}, "TOO_LONG", "texts_file", "rows"),
    ],
)
async def test_what_is_wrong_with_a_file_is_said_of_texts_file(
    tiny: AppState,
    sae: str,
    folder: Path,
    rows: list[Any],
    more: dict[str, str],
    code: str,
    field: str,
    hint: str,
) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = await refuse(tiny, "top_features", sae=sae, texts_file=str(path), **more)
    assert (error["code"], error["field"]) == (code, field)
    assert hint in error["hint"] and "text_column" not in error["hint"].replace("texts_column", "")


async def test_the_file_stays_inside_the_roots_and_is_one(
    tiny: AppState, sae: str, folder: Path, tmp_path: Path
) -> None:
    outside = written(tmp_path, ".txt", TEXTS)
    (folder / "link.txt").symlink_to(outside)
    (folder / "doc.docx").write_text("x")
    wrong = {
        str(outside): "PATH_NOT_ALLOWED",
        str(folder / "link.txt"): "PATH_NOT_ALLOWED",
        str(folder / "../../texts.txt"): "PATH_NOT_ALLOWED",
        str(folder / "none.csv"): "FILE_MISSING",
        str(folder): "FILE_SUSPICIOUS",
        str(folder / "doc.docx"): "UNKNOWN_FORMAT",
    }
    for path, code in wrong.items():
        for tool in ("top_features", "encode_text", "find_features"):
            error = await refuse(tiny, tool, sae=sae, texts_file=path)
            assert (error["code"], error["field"]) == (code, "texts_file"), path
    against = await refuse(tiny, "find_features", sae=sae, texts=TEXTS, against_file=str(outside))
    assert (against["code"], against["field"]) == ("PATH_NOT_ALLOWED", "against_file")


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"texts": TEXTS, "texts_file": "a.csv"}, "CONFLICTING_ARGUMENTS", "texts_file"),
        ({"text": "a", "texts_file": "a.csv"}, "CONFLICTING_ARGUMENTS", "texts_file"),
        ({"text": "a", "texts_column": "b"}, "MISSING_ARGUMENT", "texts_file"),
        ({"texts_file": "https://x.org/a.csv"}, "INVALID_REPO_ID", "texts_file"),
    ],
)
async def test_one_source_of_texts_at_a_time(
    tiny: AppState, sae: str, given: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(tiny, "top_features", sae=sae, **given)
    assert (error["code"], error["field"]) == (code, field)


def test_sums_of_parts_are_the_statistics_of_the_whole() -> None:
    rng = torch.Generator().manual_seed(0)
    target = torch.randn(50, 7, generator=rng) + 100
    made = target + 0.3 * torch.randn(50, 7, generator=rng)
    fit = RunningFit()
    for first, last in ((0, 1), (1, 1), (1, 20), (20, 50)):
        fit.add(target[first:last], made[first:last])
    errors = float((target.double() - made.double()).square().sum())
    spread = float((target.double() - target.double().mean(0)).square().sum())
    assert fit.explained_variance == pytest.approx(1 - errors / spread, rel=1e-12)
    cosines = torch.cosine_similarity(target.double(), made.double(), dim=-1)
    assert fit.mean_cosine == pytest.approx(float(cosines.mean()), rel=1e-12)
    nothing = RunningFit()
    assert nothing.explained_variance is None and nothing.mean_cosine is None
