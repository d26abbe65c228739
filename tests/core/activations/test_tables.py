"""CSV and TSV, and the column of any table: the right texts, or an error that says which line or
which columns."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from saescope.activations import open_dataset
from saescope.activations.files import MAX_LINE_CHARS
from saescope.activations.listed import read_texts
from saescope.errors import SaescopeError
from saescope.notices import collected

AWKWARD = ['say "no", then\nleave', "über; alles ♥\ttabs", "  spaces kept ", "😀", "1.5", "a\r\nb"]


def read(path: Path, text_column: str = "") -> list[str]:
    return list(open_dataset(str(path), text_column=text_column).documents())


def failure(path: Path, text_column: str = "") -> SaescopeError:
    with pytest.raises(SaescopeError) as caught:
        read(path, text_column)
    return caught.value


def said(tmp_path: Path, content: str | bytes, name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


WRITERS = [(write_jsonl, "a.jsonl"), (write_parquet, "a.parquet"), (write_csv, "a.csv")]
every_table = pytest.mark.parametrize(("write", "name"), WRITERS)
Writer = Callable[[Path, list[dict[str, Any]]], Path]


@every_table
def test_a_column_whose_first_values_are_null_is_read(
    tmp_path: Path, write: Writer, name: str
) -> None:
    rows = [{"id": f"x{i}", "text": None if i < 3 else f"text {i}"} for i in range(5)]
    assert read(write(tmp_path / name, rows)) == ["text 3", "text 4"]
    late = [{"id": f"x{i}", "text": None if i < 150 else "late"} for i in range(151)]
    assert read(write(tmp_path / name, late)) == ["late"]


@every_table
def test_the_longest_prose_is_the_text_and_what_is_unclear_is_asked(
    tmp_path: Path, write: Writer, name: str
) -> None:
    review = "It was a long and rather tedious evening at the theatre."
    rows = [{"label": "good", "review": review, "n": 3}, {"label": "bad", "review": review, "n": 4}]
    assert read(write(tmp_path / name, rows)) == [review, review]
    pairs = [{"question": "who is it?", "answer": "it is me"}]
    error = failure(write(tmp_path / name, pairs))
    assert error.code == "COLUMN_NOT_FOUND" and error.field == "text_column"
    assert error.allowed == "question, answer" and 'text_column="question"' in error.hint
    assert read(tmp_path / name, "answer") == ["it is me"]
    missing = failure(tmp_path / name, "text")
    assert missing.code == "COLUMN_NOT_FOUND" and missing.allowed == "question, answer"


def test_lines_of_jsonl_are_named(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": 5}]
    wrong = failure(write_jsonl(tmp_path / "a.jsonl", rows))
    assert wrong.code == "COLUMN_NOT_TEXT" and "Line 2 of 'a.jsonl'" in wrong.message
    lacking = failure(write_jsonl(tmp_path / "b.jsonl", [{"text": "a"}, {"body": "b"}]))
    assert lacking.code == "COLUMN_NOT_FOUND" and "Line 2 of 'b.jsonl'" in lacking.message
    assert 'text_column="body"' in lacking.hint


def test_half_an_emoji_in_json_becomes_the_replacement_character(tmp_path: Path) -> None:
    path = said(tmp_path, '{"text": "cut \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}\n', "a.jsonl")
    assert read(path) == ["cut \ufffd", "whole 😀"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_a_spreadsheet_writes_comes_back(
    tmp_path: Path, ending: str, delimiter: str, encoding: str
) -> None:
    path = tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv")
    with path.open("w", newline="", encoding=encoding) as file:
        out = csv.writer(file, delimiter=delimiter, lineterminator=ending)
        out.writerows([["n", "text"], *([i, text] for i, text in enumerate(AWKWARD))])
    assert read(path) == AWKWARD


def test_quotes_in_a_tsv_are_text_unless_they_hold_fields_together(tmp_path: Path) -> None:
    raw = 'id\ttext\n1\t"Hello\n2\tWorld" it said\n3\ta "quoted" word\n4\t"\n'
    assert read(said(tmp_path, raw, "raw.tsv")) == [
        '"Hello', 'World" it said', 'a "quoted" word', '"'
    ]  # fmt: skip
    pair = 'id\ttext\n1\t"Hello\n2\tWorld"\n'
    assert read(said(tmp_path, pair, "pair.tsv")) == ['"Hello', 'World"']
    quoted = 'id\ttext\n1\t"two\nlines"\n2\t"and ""this"""\n'
    assert read(said(tmp_path, quoted, "quoted.tsv")) == ["two\nlines", 'and "this"']


def test_small_tables(tmp_path: Path) -> None:
    assert read(said(tmp_path, "text\nHello; world\n\nbye\n")) == ["Hello; world", "bye"]
    assert read(said(tmp_path, ",text\n0,a\n1,\n2,c\n")) == ["a", "c"]  # as pandas writes it
    assert read(said(tmp_path, "n, Text \n1,no end of line")) == ["no end of line"]
    assert read(said(tmp_path, "")) == [] and read(said(tmp_path, "text\n")) == []


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("n,text\n1,a\n2,b,c\n", "FILE_CORRUPT", "Line 3 of 'a.csv' has 3 columns, the header 2"),
        ("n,text\n1,a\n2\n", "FILE_CORRUPT", "Line 3 of 'a.csv' has 1 columns, the header 2"),
        ('n,text\n1,"a\nb"\n2,"c\n', "FILE_CORRUPT", "record at line 4"),
        ('n,text\n1,"a"b\n', "FILE_CORRUPT", "record at line 2"),
        ("text,text\na,b\n", "FILE_CORRUPT", "2 columns called 'text'"),
        ("1,great film\n0,bad film\n", "COLUMN_NOT_FOUND", "looks like data"),
        ("The cat sat on the mat\nSo it was\n", "COLUMN_NOT_FOUND", "looks like data"),
        ("text\nnaïve\n".encode("latin-1"), "NOT_UTF8", "not UTF-8"),
        ("text\nhello\n".encode("utf-16"), "NOT_UTF8", "UTF-16"),
        ("text\nhello\n".encode("utf-16-le"), "NOT_UTF8", "UTF-16"),
        ("text\nhello\n".encode("utf-32"), "NOT_UTF8", "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "NOT_UTF8", "text"),
    ],
)
def test_tables_that_cannot_be_read_right_say_where(
    tmp_path: Path, content: str | bytes, code: str, words: str
) -> None:
    error = failure(said(tmp_path, content))
    assert error.code == code and words in error.message, error.message
    assert error.hint or error.code == "FILE_CORRUPT"


def test_a_header_of_questions_can_be_named(tmp_path: Path) -> None:
    path = said(tmp_path, "id,How do you feel today?\n7,fine\n")
    assert failure(path).code == "COLUMN_NOT_FOUND"
    assert read(path, "How do you feel today?") == ["fine"]


def test_a_field_may_be_huge_but_not_endless(tmp_path: Path) -> None:
    long = "word " * 100_000
    assert read(said(tmp_path, f'n,text\n1,"{long}"\n')) == [long]
    lines = ("x" * 79 + "\n") * (MAX_LINE_CHARS // 80 + 2)
    error = failure(said(tmp_path, f'n,text\n1,"{lines}'))
    assert error.code == "TOO_LONG" and "line 2" in error.message
    assert failure(said(tmp_path, "text\n" + "x" * MAX_LINE_CHARS)).code == "TOO_LONG"


def test_what_is_wrong_with_a_table_is_said_when_it_is_opened(tmp_path: Path) -> None:
    path = said(tmp_path, "question,answer\nwho?,me\n")
    with pytest.raises(SaescopeError, match="not clear"):
        open_dataset(str(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_column_that_is_empty_as_far_as_one_looks_may_be_the_text(
    suffix: str, tmp_path: Path
) -> None:
    """150 rows without a body: an identifier is not read in its place."""
    path = tmp_path / f"late{suffix}"
    bodies = ["" if suffix == ".csv" else None] * 150 + ["The old man saw the sea."] * 20
    if suffix == ".csv":
        path.write_text("id,body\n" + "".join(f"a{i},{body}\n" for i, body in enumerate(bodies)))
    else:
        rows = [json.dumps({"id": f"a{i}", "body": body}) for i, body in enumerate(bodies)]
        path.write_text("\n".join(rows))
    error = failure(path)
    assert error.code == "COLUMN_NOT_FOUND" and "body" in error.allowed
    assert set(read(path, "body")) == {"The old man saw the sea."}


def test_the_column_called_text_comes_before_one_called_Text(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps({"Text": "upper", "text": "lower"}) + "\n")
    assert read(path) == ["lower"]


def test_two_columns_of_one_name_are_told_in_parquet_too(tmp_path: Path) -> None:
    columns = [pa.array(["x y z"]), pa.array(["u v w"])]
    parquet.write_table(pa.table(columns, names=["text", "text"]), tmp_path / "twice.parquet")
    error = failure(tmp_path / "twice.parquet")
    assert (error.code, error.field) == ("FILE_CORRUPT", "text_column")
    assert "2 columns called 'text'" in error.message


PARTED = [
    ("a.csv", "id~text\n1~Hello there\n2~Bye, now\n", "'~'"),
    ("a.csv", "id:text\n1:Hello there\n2:It is 10:30\n", "':'"),
    ("a.csv", '"id"~"text"\n"1"~"Hello there"\n', "'~'"),
    ("a.csv", "id^text\n1^Hello there\n", r"'\^'"),
    ("a.csv", "id\x1ftext\n1\x1fHello there\n", r"'\\x1f'"),
    ("a.tsv", "id,text\n1,Hello there\n2,Bye\n", "','"),
]


@pytest.mark.parametrize(("name", "content", "sign"), PARTED)
def test_a_delimiter_that_nobody_looked_for_is_asked_about(
    tmp_path: Path, name: str, content: str, sign: str
) -> None:
    with pytest.raises(SaescopeError, match=f"parted by {sign}") as caught:
        read(said(tmp_path, content, name))
    assert caught.value.code == "COLUMN_NOT_FOUND" and "sep=" in caught.value.hint


def test_one_column_whose_name_holds_a_sign_can_be_named(tmp_path: Path) -> None:
    path = said(tmp_path, "note:said\nAnna: hello\nBert: bye\n")
    assert 'text_column="note:said"' in failure(path).hint
    assert read(path, "note:said") == ["Anna: hello", "Bert: bye"]
    assert read(said(tmp_path, "user-text\na-b\nc d\n")) == ["a-b", "c d"]
    assert read(said(tmp_path, "note:said\nhello\nbye: bye\n")) == ["hello", "bye: bye"]
    assert read(said(tmp_path, "Question?\nWho is it?\nWhy?\n")) == ["Who is it?", "Why?"]


def test_records_wider_than_the_header_are_no_texts_of_one_column(tmp_path: Path) -> None:
    error = failure(said(tmp_path, "id;text\n1;hello; world\n2;bye\n"))
    assert error.message.startswith("Line 2 of 'a.csv' has 3 columns, the header 2")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("sign", [";", ",", "\t", "~", ":", "|"])
@pytest.mark.parametrize("line", ["sep={}\r\n", '"sep={}"\n', "\ufeffSEP={}\r\n"])
def test_the_first_line_may_name_the_delimiter(
    tmp_path: Path, name: str, sign: str, line: str
) -> None:
    table = line.format(sign) + f'id{sign}text\r\n1{sign}"Hi, {sign} you"\r\n2{sign}Bye. now\r\n'
    path = said(tmp_path, table, name)
    assert read(path) == read(path, "text") == [f"Hi, {sign} you", "Bye. now"]
    torn = failure(said(tmp_path, f"{table}3{sign}a{sign}b\r\n", name))
    assert torn.message.startswith("Line 5 of ")


BIG = "9" * 6000


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "b", "n": ' + BIG + "}", "holds a whole number of more than 4300 digits"),
        ('{"text": "b", "n": ' + "[" * 100_000 + "}", "is nested too deeply"),
        ('{"text": "b", "n": }', "is no valid JSON: Expecting value at column 20"),
        ('["b"]', "holds no JSON object"),
        (BIG, "holds a whole number of more than 4300 digits"),
    ],
)
def test_what_is_wrong_with_a_line_of_jsonl_is_said(
    tmp_path: Path, line: str, problem: str
) -> None:
    error = failure(said(tmp_path, f'{{"text": "a"}}\n\n{line}\n', "a.jsonl"))
    assert error.message == f"Line 3 of 'a.jsonl' {problem}."
    assert "one JSON object a line" in error.hint


TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_every_type_of_string_in_parquet_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["Hello there", None, "", "Hello there", "über ♥"]
    path, column = tmp_path / "a.parquet", pa.array(texts, pa.string()).cast(kind)
    parquet.write_table(pa.table({"id": range(5), "body": column}), path)
    expected = ["Hello there", "Hello there", "über ♥"]
    assert read(path) == read(path, "body") == expected


@every_table
def test_a_missing_column_brings_up_the_one_that_looks_like_the_text(
    tmp_path: Path, write: Writer, name: str
) -> None:
    rows = [{"id": i, "tag": "a b", "body": "The cat sat on the mat.", "n": 0} for i in range(3)]
    assert 'text_column="body"' in failure(write(tmp_path / name, rows), "text").hint
    usual = [row | {"content": "cat"} for row in rows]
    assert 'text_column="content"' in failure(write(tmp_path / name, usual), "txt").hint
    unclear = [row | {"title": "The cat"} for row in rows]
    assert 'text_column="body"' in failure(write(tmp_path / name, unclear)).hint
    if name != "a.csv":  # whose cells are all text
        assert 'text_column="content"' in failure(write(tmp_path / name, usual), "id").hint


def test_two_delimiters_under_which_all_is_a_table_are_asked_about(tmp_path: Path) -> None:
    rows = "".join(f"{i},50;Hello world this is {i}\n" for i in range(5))
    path = said(tmp_path, "price,EUR;text\n" + rows)
    error = failure(path)
    assert error.code == "COLUMN_NOT_FOUND" and "','" in str(error) and "';'" in str(error)
    assert read(path, "text") == [f"Hello world this is {i}" for i in range(5)]
    assert read(said(tmp_path, "sep=;\nprice,EUR;text\n" + rows), "text")[0].startswith("Hello")


def test_a_quote_far_down_in_a_tsv_joins_no_lines_in_silence(tmp_path: Path) -> None:
    plain = "".join(f"{i}\ttext {i}\n" for i in range(1500))
    torn = plain + '1500\t"Hello there\n1501\tmy friend"\n'
    error = failure(said(tmp_path, "id\ttext\n" + torn, "a.tsv"))
    assert "Line 1502 of" in str(error) and "a later line closes" in str(error)
    whole = plain + '1500\t"Hello there"\n'
    assert read(said(tmp_path, "id\ttext\n" + whole, "a.tsv"))[-1] == "Hello there"


def test_a_space_after_each_delimiter_belongs_to_no_cell(tmp_path: Path) -> None:
    path = said(tmp_path, 'id, text\n1, "hello, there"\n2, and here\n')
    assert read(path) == ["hello, there", "and here"]
    # a space before some cells alone is theirs
    path = said(tmp_path, "id,text\n1, and here\n2,there\n")
    assert read(path) == [" and here", "there"]


def test_a_row_of_jsonl_with_two_values_of_a_name_is_refused(tmp_path: Path) -> None:
    error = failure(said(tmp_path, '{"text": "a"}\n{"text": "a", "text": "b"}\n', "a.jsonl"))
    assert "Line 2" in str(error) and "two values for 'text'" in str(error)


def test_a_folder_says_what_it_leaves_out(tmp_path: Path) -> None:
    said(tmp_path, "A licence.", "LICENSE.txt")
    for name in ("part-0.jsonl.gz", "train.json", ".hidden"):
        said(tmp_path, "x", name)
    with collected() as told:
        assert read(tmp_path) == ["A licence."]
    (said_of_it,) = told
    assert "not read: 'part-0.jsonl.gz', 'train.json'." in said_of_it


def test_a_line_of_a_txt_is_a_text_with_its_spaces(tmp_path: Path) -> None:
    path = said(tmp_path, " Paris\n\nis in  \r\n", "a.txt")
    assert read_texts(path, most=10) == [" Paris", "is in  "]
