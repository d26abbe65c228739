"""encode_text of named features: where they fire, in texts and in files."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.server.helpers import PROMPT, call, refuse

from saescope_mcp.state import AppState

TEXTS = [PROMPT, "She said that her mother went to the sea.", "Nothing."]


async def by_token(state: AppState, sae: str, feature: int) -> list[tuple[int, int, str, float]]:
    """(text, position, token, activation) of each firing, from the listing of all tokens."""
    reply = await call(state, "encode_text", sae=sae, texts=TEXTS, top_k=8, limit=100)
    return [
        (row["text_index"], row["pos"], row["token"], found["activation"])
        for row in reply["tokens"]
        for found in row["features"]
        if found["feature"] == feature
    ]


async def overlapping(state: AppState, sae: str, pattern: str) -> set[tuple[int, int]]:
    """(text, position) of the tokens that a match overlaps, by the tokens' own characters."""
    asked = {"sae": sae, "texts": TEXTS, "include_special": True, "limit": 100}
    rows = (await call(state, "encode_text", **asked))["tokens"]
    found: set[tuple[int, int]] = set()
    for i, text in enumerate(TEXTS):
        own = [row for row in rows if row["text_index"] == i]
        end = 0
        for row in own:
            start, end = end, end + len(row["token"])
            if any(m.start() < end and m.end() > start for m in re.finditer(pattern, text)):
                found.add((i, row["pos"]))
        assert "".join(row["token"] for row in own) == text
    return found


async def most_common(state: AppState, sae: str) -> int:
    reply = await call(state, "top_features", sae=sae, texts=TEXTS, rank_by="count", k=1)
    return reply["features"][0]["feature"]


async def test_named_features_fire_where_the_listing_of_all_tokens_says(
    tiny: AppState, sae: str
) -> None:
    feature = await most_common(tiny, sae)
    wanted = sorted(await by_token(tiny, sae, feature), key=lambda row: -row[3])
    reply = await call(tiny, "encode_text", sae=sae, texts=TEXTS, features=[feature], limit=100)
    places = [
        (row["text_index"], row["pos"], row["token"], row["activation"]) for row in reply["places"]
    ]
    assert len(wanted) > 1 and sorted(places) == sorted(wanted)
    assert [row[3] for row in places] == [row[3] for row in wanted]  # strongest first
    (row,) = reply["features"]
    assert row["n_firing"] == reply["total"] == len(wanted)
    assert row["max_activation"] == wanted[0][3] and row["n_texts"] == len({w[0] for w in wanted})
    assert (
        f"Feature {feature} fires on {len(wanted)} of {reply['n_tokens']} tokens"
        in reply["summary"]
    )
    assert reply["tokens"] == [] and all("⟦" in place["text"] for place in reply["places"])


async def test_a_feature_that_fires_nowhere_is_said_to(tiny: AppState, sae: str) -> None:
    feature = await most_common(tiny, sae)
    fires = {row["feature"] for row in await listed(tiny, sae)}
    silent = next(i for i in range(256) if i not in fires)
    reply = await call(tiny, "encode_text", sae=sae, texts=TEXTS, features=[silent, feature])
    assert [row["feature"] for row in reply["features"]] == [silent, feature]
    assert reply["features"][0]["n_firing"] == 0 and reply["features"][0]["max_activation"] is None
    assert f"Feature {silent} fires nowhere" in reply["summary"]


async def listed(state: AppState, sae: str) -> list[dict[str, Any]]:
    return (await call(state, "top_features", sae=sae, texts=TEXTS, k=100))["features"]


async def test_places_of_several_features_come_by_turns_and_in_pages(
    tiny: AppState, sae: str
) -> None:
    features = [row["feature"] for row in (await listed(tiny, sae))[:3]]
    asked = {"sae": sae, "texts": TEXTS, "features": features}
    whole = await call(tiny, "encode_text", **asked, limit=100)
    assert {row["feature"] for row in whole["places"][:3]} == set(features)
    first = await call(tiny, "encode_text", **asked, limit=2)
    assert first["next_offset"] == 2 and first["truncated"] and "offset=2" in first["next"][0]
    rest = await call(tiny, "encode_text", **asked, limit=100, offset=2)
    assert first["places"] + rest["places"] == whole["places"]


async def test_firing_is_tested_against_a_pattern(tiny: AppState, sae: str) -> None:
    feature = await most_common(tiny, sae)
    fires = {row[:2] for row in await by_token(tiny, sae, feature)}
    seas = await overlapping(tiny, sae, r"\bsea\b")
    asked = {"sae": sae, "texts": TEXTS, "features": [feature]}
    found = await call(tiny, "encode_text", **asked, pattern=r"\bsea\b")
    test = found["features"][0]["by_token"]
    assert len(seas) == test["n_positive"] > 1
    assert test["precision"]["value"] == pytest.approx(len(fires & seas) / len(fires), rel=1e-3)
    assert test["recall"]["value"] == pytest.approx(len(fires & seas) / len(seas), rel=1e-3)
    assert test["base_rate"] == pytest.approx(len(seas) / found["n_tokens"], rel=1e-3)
    assert f"Positive is a token that overlaps a match: {len(seas)} (" in found["summary"]
    none = await call(tiny, "encode_text", **asked, pattern="zebra")
    assert none["features"][0]["by_token"]["recall"] is None
    assert "no counted token" in none["warnings"][0]


async def test_texts_of_a_file_are_read_alike(tiny: AppState, sae: str, sae_dir: Path) -> None:
    path = sae_dir.parent / "named.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    feature = await most_common(tiny, sae)
    asked = {"sae": sae, "features": [feature], "pattern": "s"}
    given = await call(tiny, "encode_text", texts=TEXTS, **asked)
    read = await call(tiny, "encode_text", texts_file=str(path), **asked)
    assert read["places"] == given["places"] and read["features"] == given["features"]
    assert read["summary"].startswith("3 texts of named.txt: ")


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({"features": [0, 256]}, "FEATURE_OUT_OF_RANGE", "features"),
        ({"features": [-1]}, "FEATURE_OUT_OF_RANGE", "features"),
        ({"features": [*range(17)]}, "TOO_MANY_ITEMS", "features"),
        ({"pattern": "sea"}, "MISSING_ARGUMENT", "features"),
        ({"features": [1], "pattern": "(sea"}, "INVALID_PATTERN", "pattern"),
        ({"features": [1], "pattern": "(?R)"}, "INVALID_PATTERN", "pattern"),
        ({"features": [1], "positions": [500]}, "POSITION_OUT_OF_RANGE", "positions"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    tiny: AppState, sae: str, arguments: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(tiny, "encode_text", sae=sae, text=PROMPT, **arguments)
    assert (error["code"], error["field"]) == (code, field) and error["hint"]


async def test_features_are_those_of_one_sae(tiny: AppState) -> None:
    error = await refuse(tiny, "encode_text", saes=["a", "b"], text=PROMPT, features=[1])
    assert error["code"] == "CONFLICTING_ARGUMENTS" and "sae, one call for each" in error["hint"]


async def test_a_pattern_that_never_ends_is_stopped(
    tiny: AppState, sae: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.patterns.TEXT_S", 0.05)
    text = "a" * 100 + "!"
    error = await refuse(tiny, "encode_text", sae=sae, text=text, features=[1], pattern="(a|aa)+$")
    assert error["code"] == "PATTERN_TOO_SLOW" and error["field"] == "pattern"
    assert (await call(tiny, "encode_text", sae=sae, text=text, features=[1]))["n_tokens"]


@pytest.fixture
def corpus(sae_dir: Path) -> Path:
    path = sae_dir.parent / "named.csv"
    path.write_text("id,body\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(TEXTS * 3)))
    return path


async def test_a_dataset_gives_what_its_texts_give(tiny: AppState, sae: str, corpus: Path) -> None:
    feature = await most_common(tiny, sae)
    asked = {"sae": sae, "features": [feature], "pattern": "s", "limit": 100}
    given = await call(tiny, "encode_text", texts=TEXTS * 3, **asked)
    read = await call(tiny, "encode_text", dataset=str(corpus), text_column="body", **asked)
    assert read["features"] == given["features"]
    assert read["features"][0]["by_text"]["precision"]["low"] is not None
    best: dict[int, float] = {}
    for row in given["places"]:
        best[row["text_index"]] = max(row["activation"], best.get(row["text_index"], 0.0))
    assert {row["text_index"]: row["activation"] for row in read["places"]} == best
    assert len(read["places"]) == len(best) == read["total"] == given["features"][0]["n_texts"]
    assert "tokens of named.csv (documents: 9)" in read["summary"]


async def test_as_many_tokens_of_a_dataset_are_read_as_asked(tiny: AppState, sae: str) -> None:
    asked = {"sae": sae, "features": [3], "dataset": "embedded"}
    reply = await call(tiny, "encode_text", **asked, n_tokens=500)
    assert reply["n_tokens"] + reply["n_left_out"] == 500
    assert reply["features"][0]["by_token"] is None and "500 tokens of embedded" in reply["summary"]


async def test_a_long_reading_goes_on_as_a_job(tiny: AppState, sae: str) -> None:
    asked = {"sae": sae, "features": [3], "dataset": "embedded", "n_tokens": 400}
    begun = await call(tiny, "encode_text", **asked, limit=1, wait_s=0)
    assert begun["state"] == "running" and begun["job_id"] in begun["next"][0]
    status = await call(
        tiny, "job_status", job_id=begun["job_id"], wait_s=50, response_format="detailed"
    )
    assert status["state"] == "done" and status["result"]["features"][0]["feature"] == 3
    assert not any("wait_s" in step for step in status["result"]["next"])
    assert (await call(tiny, "encode_text", **asked))["features"] == status["result"]["features"]


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({"dataset": "/etc/hostname"}, "PATH_NOT_ALLOWED", "dataset"),
        ({"dataset": "hf:owner/name"}, "NOT_CACHED_OFFLINE", "dataset"),
        ({"dataset": "embedded", "text": "a"}, "CONFLICTING_ARGUMENTS", "dataset"),
        ({"dataset": "embedded", "positions": [1]}, "CONFLICTING_ARGUMENTS", "positions"),
        ({"dataset": "embedded", "features": []}, "MISSING_ARGUMENT", "features"),
        ({"dataset": "embedded", "n_tokens": 0}, "OUT_OF_RANGE", "n_tokens"),
        ({"text": "a", "text_column": "body"}, "MISSING_ARGUMENT", "dataset"),
        ({"dataset": "embedded", "features": [256]}, "FEATURE_OUT_OF_RANGE", "features"),
    ],
)
async def test_a_dataset_that_cannot_be_read_is_refused(
    tiny: AppState, sae: str, arguments: dict[str, Any], code: str, field: str
) -> None:
    error = await refuse(tiny, "encode_text", **{"sae": sae, "features": [1]} | arguments)
    assert (error["code"], error["field"]) == (code, field) and error["hint"]


async def test_a_column_that_is_not_there_names_the_right_one(
    tiny: AppState, sae: str, corpus: Path
) -> None:
    asked = {"sae": sae, "features": [1], "dataset": str(corpus), "text_column": "boddy"}
    error = await refuse(tiny, "encode_text", **asked)
    assert (error["code"], error["field"]) == ("COLUMN_NOT_FOUND", "text_column")
    assert 'text_column="body"' in error["hint"]


async def test_labels_in_a_column_are_a_test_by_document(
    tiny: AppState, sae: str, sae_dir: Path
) -> None:
    feature = await most_common(tiny, sae)
    fires = {row[0] for row in await by_token(tiny, sae, feature)}
    path = sae_dir.parent / "labelled.csv"
    labels = [True, False, False]
    rows = (f'"{text}",{label}\n' for text, label in zip(TEXTS, labels, strict=True))
    path.write_text("body,good\n" + "".join(rows), encoding="utf-8")
    asked = {"sae": sae, "features": [feature], "dataset": str(path), "text_column": "body"}
    reply = await call(tiny, "encode_text", **asked, label_column="good")
    test = reply["features"][0]["by_text"]
    hits = sum(labels[text] for text in fires)
    assert test["precision"]["value"] == pytest.approx(hits / len(fires), rel=1e-3)
    assert test["recall"]["value"] == hits and test["n_positive"] == 1
    assert "By document, positive is a true label: 1 (33%)" in reply["summary"]
    path.write_text("body,good\n" + "".join(f'"{text}",yes\n' for text in TEXTS))
    sorted_file = await call(tiny, "encode_text", **asked, label_column="good")
    assert "positive is a true label: 3 (100%)" in sorted_file["summary"]
    assert "Every document that was read is positive" in sorted_file["warnings"][0]
    nowhere = await call(tiny, "encode_text", **asked, label_column="good=maybe")
    assert "No document that was read is positive" in nowhere["warnings"][0]
    error = await refuse(tiny, "encode_text", **asked, label_column="bad")
    assert (error["code"], error["field"]) == ("COLUMN_NOT_FOUND", "label_column")
    embedded = asked | {"dataset": "embedded", "text_column": ""}
    error = await refuse(tiny, "encode_text", **embedded, label_column="good")
    assert (error["code"], error["field"]) == ("UNKNOWN_FORMAT", "dataset")


@pytest.mark.parametrize(
    ("said", "code"),
    [({"features": [256]}, "FEATURE_OUT_OF_RANGE"), ({"pattern": "("}, "INVALID_PATTERN")],
)
async def test_what_is_wrong_with_a_reading_is_said_before_it_is_a_job(
    tiny: AppState, sae: str, said: dict[str, Any], code: str
) -> None:
    asked = {"features": [1], "dataset": "embedded", "n_tokens": 50, "wait_s": 0} | said
    before = len(tiny.jobs.all())
    assert (await refuse(tiny, "encode_text", sae=sae, **asked))["code"] == code
    assert len(tiny.jobs.all()) == before
