"""From an index to a name that was tested: describe, find, quiz, label, steer; and no way to look
the answers up."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import ResourceLink, TextResourceContents
from tests.core.features.planted import WORDS, sentence
from tests.core.neuronpedia.fake_neuronpedia import FakeNeuronpedia
from tests.server.helpers import call, empties, refuse
from tests.server.knowing import KING, Bench
from typer.testing import CliRunner

from saescope.features import QuizStore
from saescope_mcp.app import build_server
from saescope_mcp.cli.commands import app
from saescope_mcp.cli.flags import arguments_from
from saescope_mcp.cli.verbs import VERBS
from saescope_mcp.state import AppState

Server = tuple[AppState, str]


@pytest.fixture
async def server(bench: Bench, glass_dir: Path) -> Server:
    return await bench.loaded(glass_dir, indexed=True)


def judged(items: list[dict[str, Any]], word: str) -> list[bool]:
    """Answers of somebody who believes that a feature fires on that word."""
    return [
        f"⟦{word}⟧" in item["text"] if item["kind"] == "fuzzing" else f" {word}" in item["text"]
        for item in items
    ]


async def test_from_an_index_to_a_tested_name_through_the_protocol(server: Server) -> None:
    state, sae = server
    async with Client(build_server(state=state)) as client:
        left_out = await empties(client)

        async def done(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, {"sae": sae, **arguments})
            assert not result.is_error and result.structured_content is not None, result.content
            return left_out[tool] | result.structured_content

        card = await done("describe_feature", feature=KING)
        assert card["max_activation"] == pytest.approx(1, abs=0.2) and 0.02 < card["density"] < 0.06
        assert (
            all("⟦King⟧" in example["text"] for example in card["examples"])
            and len(card["examples"]) == 5
        )
        assert (
            len(card["promotes"]) == 8
            and card["label"] is None
            and "quiz_feature(" in card["next"][0]
        )
        writers = await done("find_features", tokens=[" King"])
        assert writers["features"][0]["feature"] == KING and writers["evidence"] == "controlled"
        assert writers["features"][0]["tokens"][0]["rank"] <= 10
        assert writers["features"][0]["push"] is not None
        assert " random features (p = " in writers["summary"]
        assert "why" not in writers["features"][0], "its numbers are in the row"
        n_writers = sum(bool(row["writes"]) for row in writers["features"])
        assert f"{n_writers or 'none'} of which write" in writers["summary"]
        assert (await done("find_features", texts=[sentence(random.Random(1), 9, [" King"])]))[
            "features"
        ][0]["feature"] == KING

        quiz = await done("quiz_feature", feature=KING)
        answers = judged(quiz["items"], "King")
        named = await done(
            "label_feature",
            feature=KING,
            text="the word King",
            quiz_id=quiz["quiz_id"],
            answers=answers,
        )
        assert (
            named["label"]["score"]["balanced_accuracy"] == 1
            and named["label"]["verdict"] == "good"
        )
        label = named["label"]
        assert (await done("describe_feature", feature=KING))["label"] == label
        assert (await done("find_features", query="kings"))["features"][0]["label"] == label
        top = await done("top_features", text="said the King to the child")
        assert {row["feature"]: row.get("label") for row in top["features"]}[KING] == label
        steered = await done(
            "steer_generate",
            prompt="He said",
            features=[{"feature": KING}],
            max_new_tokens=4,
            n_controls=1,
        )
        assert steered["unit_values"] == [card["typical_activation"]]
        assert steered["unit_source"].startswith("indexed 99th percentile over")
        assert steered["features"] == [{"feature": KING, "label": label}]
        why = await done("attribute_logit", prompt="He said the King", k=3, validate=False)
        assert [row["label"] for row in why["features"] if row["feature"] == KING] == [label]


async def test_a_wrong_label_scores_badly_and_ranks_below_one_that_nobody_tested(
    server: Server,
) -> None:
    state, sae = server
    queen = {"sae": sae, "feature": WORDS.index(" Queen")}
    quiz = await call(state, "quiz_feature", **queen)
    wrong = await call(
        state,
        "label_feature",
        **queen,
        text="doors",
        quiz_id=quiz["quiz_id"],
        answers=judged(quiz["items"], "door"),
    )
    assert wrong["label"]["score"]["balanced_accuracy"] < 0.7 and wrong["label"]["verdict"] not in (
        "good",
        "better than chance",
    )
    other = await call(state, "label_feature", **queen, text="the word Queen")
    assert other["label"]["verdict"] == "not tested" and "not tested" in other["summary"]
    card = await call(state, "describe_feature", **queen)
    assert [label["text"] for label in card["labels"]] == [
        "the word Queen",
        "doors",
    ] and "(not tested)" in card["summary"]
    again = await refuse(
        state, "label_feature", **queen, text="doors", quiz_id=quiz["quiz_id"], answers=[True] * 12
    )
    assert again["code"] == "QUIZ_USED"


async def test_no_text_of_a_quiz_is_on_any_card(server: Server) -> None:
    state, sae = server
    shown: list[str] = []
    async with Client(build_server(state=state)) as client:
        for feature in range(len(WORDS)):
            card = await call(state, "describe_feature", sae=sae, feature=feature, n_examples=30)
            page = (await client.read_resource(card["page"])).contents[0]
            assert isinstance(page, TextResourceContents)
            shown += ["".join(example["text"] for example in card["examples"]), page.text]
    plain = ["".join(text.replace("⟦", "").replace("⟧", "").split()) for text in shown]
    for feature in range(len(WORDS)):
        for item in (await call(state, "quiz_feature", sae=sae, feature=feature, n=40))["items"]:
            text = "".join(item["text"].replace("⟦", "").replace("⟧", "").split())
            assert not any(text in page for page in plain), item


async def test_short_cards_of_several_features(server: Server) -> None:
    state, sae = server
    others = [KING + 1, KING]
    reply = await call(state, "describe_feature", sae=sae, features=others)
    assert [card["feature"] for card in reply["cards"]] == others and reply["corpus"]
    for card in reply["cards"]:
        whole = await call(state, "describe_feature", sae=sae, feature=card["feature"])
        for name in ("density", "max_activation", "typical_activation", "label"):
            assert card[name] == whole[name]
        marks = ("activation", "token", "pos", "band")
        assert [[each[name] for name in marks] for each in card["examples"]] == [
            [each[name] for name in marks] for each in whole["examples"][:2]
        ]
        assert all(each["text"].count("⟦") == 1 for each in card["examples"])
        assert card["top_tokens"] == [WORDS[card["feature"]]]
        assert card["promotes"] == whole["promotes"][:4]
    assert reply["summary"].startswith("2 features, 0 with a label.")
    more = await call(state, "describe_feature", sae=sae, features=others, n_examples=0)
    assert all(card["examples"] == [] for card in more["cards"])


async def test_short_cards_through_the_protocol_are_short(server: Server) -> None:
    state, sae = server
    async with Client(build_server(state=state)) as client:
        asked = {"sae": sae, "features": [*range(12)]}
        result = await client.call_tool("describe_feature", asked)
    assert not result.is_error and result.structured_content is not None
    assert len(result.structured_content["cards"]) == 12 and len(result.content) == 1
    assert result.content[0].type == "text" and len(result.content[0].text) / 3 < 12 * 170


async def test_relatives_of_a_feature_are_named(server: Server) -> None:
    state, sae = server
    card = await call(state, "describe_feature", sae=sae, feature=KING)
    assert card["neighbours"]
    for row in card["neighbours"] + card["cofiring"]:
        other = await call(state, "describe_feature", sae=sae, feature=row["feature"])
        assert row["top_token"] == WORDS[row["feature"]]
        assert row["promoted"] == other["promotes"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({}, "MISSING_ARGUMENT", "feature"),
        ({"feature": 1, "features": [1]}, "CONFLICTING_ARGUMENTS", "features"),
        ({"features": [1], "picture": True}, "CONFLICTING_ARGUMENTS", "picture"),
        ({"features": [1, 12, 13]}, "FEATURE_OUT_OF_RANGE", "features"),
        ({"features": [*range(17)]}, "TOO_MANY_ITEMS", "features"),
        ({"feature": -1}, "OUT_OF_RANGE", "feature"),
    ],
)
async def test_features_that_cannot_be_described_are_refused(
    server: Server, arguments: dict[str, Any], code: str, field: str
) -> None:
    state, sae = server
    error = await refuse(state, "describe_feature", sae=sae, **arguments)
    assert (error["code"], error["field"]) == (code, field) and error["hint"]


async def test_a_label_says_which_items_it_missed(server: Server) -> None:
    state, sae = server
    quiz = await call(state, "quiz_feature", sae=sae, feature=KING)
    right = judged(quiz["items"], "King")
    answers = [answer ^ (n in (0, 4)) for n, answer in enumerate(right)]
    said = {"text": "kings", "quiz_id": quiz["quiz_id"], "answers": answers}
    reply = await call(state, "label_feature", sae=sae, feature=KING, **said)
    assert reply["missed"] == [
        quiz["items"][n] | {"answer": answers[n], "fires": right[n]} for n in (0, 4)
    ]
    assert "items 1, 5 are wrong" in reply["summary"]
    quiz = await call(state, "quiz_feature", sae=sae, feature=KING)
    answers = [item ^ (n == 2) for n, item in enumerate(judged(quiz["items"], "King"))]
    said = {"text": "kings", "quiz_id": quiz["quiz_id"], "answers": answers}
    one = await call(state, "label_feature", sae=sae, feature=KING, **said)
    assert "that to item 3 is wrong" in one["summary"]
    untested = await call(state, "label_feature", sae=sae, feature=KING, text="royalty")
    assert untested["missed"] == []


async def test_a_quiz_whose_texts_are_in_a_dataset_that_was_read_is_void(
    server: Server, bench: Bench
) -> None:
    state, sae = server
    quiz = await call(state, "quiz_feature", sae=sae, feature=KING)
    path = bench.folder / "seen.jsonl"
    path.write_text(json.dumps({"text": quiz["items"][3]["text"]}) + "\n", encoding="utf-8")
    await call(state, "encode_text", sae=sae, features=[0], dataset=str(path))
    said = {"text": "kings", "quiz_id": quiz["quiz_id"], "answers": [True] * len(quiz["items"])}
    error = await refuse(state, "label_feature", sae=sae, feature=KING, **said)
    assert error["code"] == "QUIZ_USED"


@pytest.mark.parametrize(
    "tool",
    [
        "encode_text",
        "top_features",
        "find_features",
        "attribute_logit",
        "intervene",
        "steer_generate",
    ],
)
async def test_a_quiz_whose_texts_were_shown_to_a_tool_is_void(server: Server, tool: str) -> None:
    state, sae = server
    quiz = await call(state, "quiz_feature", sae=sae, feature=KING)
    text = quiz["items"][3]["text"]
    said: dict[str, Any] = {
        "find_features": {"texts": [text]},
        "attribute_logit": {"prompt": text, "validate": False},
        "intervene": {
            "prompt": text,
            "edits": [{"feature": KING, "mode": "ablate"}],
            "n_controls": 0,
        },
        "steer_generate": {
            "prompt": text,
            "features": [{"feature": KING}],
            "max_new_tokens": 1,
            "n_controls": 0,
        },
    }.get(tool, {"text": text})
    await call(state, tool, sae=sae, **said)
    answers = judged(quiz["items"], "King")
    error = await refuse(
        state,
        "label_feature",
        sae=sae,
        feature=KING,
        text="King",
        quiz_id=quiz["quiz_id"],
        answers=answers,
    )
    assert error["code"] == "QUIZ_USED" and "quiz_feature" in error["hint"]


async def test_an_index_of_the_quizs_own_texts_makes_the_card_void_the_quiz(
    server: Server, bench: Bench
) -> None:
    from saescope.features.index import index_features

    state, sae = server
    quiz = await call(state, "quiz_feature", sae=sae, feature=KING)
    text = bench.folder / "cheat.txt"
    plain = [item["text"].replace("⟦", "").replace("⟧", "") for item in quiz["items"]]
    text.write_text("\n\n".join(plain * 80), encoding="utf-8")
    entry = state.require(sae)
    index_features(entry.model, entry.sae, str(text), n_tokens=14_000, context_size=64)
    assert (await call(state, "describe_feature", sae=sae, feature=KING))["corpus"][
        "dataset"
    ] == "cheat.txt"
    answers = judged(quiz["items"], "King")
    error = await refuse(
        state,
        "label_feature",
        sae=sae,
        feature=KING,
        text="King",
        quiz_id=quiz["quiz_id"],
        answers=answers,
    )
    assert error["code"] == "QUIZ_USED"


async def test_results_are_short_and_pages_whole(server: Server) -> None:
    state, sae = server
    for feature in range(4):
        await call(state, "label_feature", sae=sae, feature=feature, text="long words " * 20)
    async with Client(build_server(state=state)) as client:
        result = await client.call_tool(
            "describe_feature", {"sae": sae, "feature": KING, "n_examples": 5}
        )
        assert result.content[0].type == "text" and len(result.content[0].text.encode()) / 3 <= 1500
        link = result.content[1]
        assert isinstance(link, ResourceLink) and (link.mime_type, link.uri) == (
            "text/html",
            f"sae://feature/{sae}/{KING}",
        )
        page = (await client.read_resource(link.uri)).contents[0]
        assert isinstance(page, TextResourceContents) and page.mime_type == "text/html"
        assert len(page.text.encode()) / 4 < 6500  # tokens, with its style sheet
        assert page.text.count("<mark") >= 10 and "http" not in page.text.split("</head>")[
            0
        ].replace("http-equiv", "")
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        uri = (listed["describe_feature"].meta or {})["ui"]["resourceUri"]
        made = (await client.read_resource(uri)).contents[0]
        assert (
            made.mime_type == "text/html;profile=mcp-app"
            and isinstance(made, TextResourceContents)
            and "<script" in made.text
        )
        for wrong in (
            f"sae://feature/{sae}/999",
            "sae://feature/a/1.b/0",
            f"sae://feature/{sae}/x",
        ):
            with pytest.raises(MCPError, match=r"(?i)not|outside|no feature"):
                await client.read_resource(wrong)


async def test_a_picture_and_the_page_are_files_on_request(server: Server) -> None:
    state, sae = server
    card = await call(state, "describe_feature", sae=sae, feature=KING, picture=True, n_examples=1)
    assert (
        len(card["examples"]) == 1
        and Path(card["page_path"]).read_text(encoding="utf-8").count("<mark") > 5
    )
    assert Path(card["pictures"][0]).read_bytes().startswith(b"<svg ")


async def test_what_tells_two_sets_of_texts_apart_is_found_and_confirmed(server: Server) -> None:
    state, sae = server
    rng = random.Random(3)
    kings, none = (
        [sentence(rng, 12, [" King"]) for _ in range(24)],
        [sentence(rng, 13) for _ in range(24)],
    )
    found = await call(state, "find_features", sae=sae, texts=kings, against=none)
    best = found["features"][0]
    assert (
        best["feature"] == KING
        and best["confirmed"]
        and best["held_out"]["auc"] == 1
        and best["p"] < 0.05
    )
    assert found["features"][1:] == [] and best["side"] == "texts"
    assert best["top"]["token"] == " King" and " King" in kings[best["top"]["text_index"]]
    assert found["contrast"]["held_out"] and found["evidence"] == "correlational"
    names = [baseline["name"] for baseline in found["contrast"]["baselines"]]
    assert "bag_of_words" in names and "bag of words" in found["summary"]
    more = await call(
        state, "find_features", sae=sae, texts=kings, against=none, unconfirmed=True, k=3
    )
    assert [row["confirmed"] for row in more["features"]].count(True) == 1
    assert "of the confirmed are not listed" not in more["summary"]
    doors = [sentence(rng, 11, [" King", " door"], n=6) for _ in range(24)]
    first = await call(state, "find_features", sae=sae, texts=doors, against=none, k=1)
    assert first["contrast"]["n_confirmed"] == 2 and len(first["features"]) == 1
    assert "1 of the confirmed are not listed" in first["summary"]
    words = [sentence(rng, 12, [" door", " room"]) for _ in range(48)]
    nothing = await call(state, "find_features", sae=sae, texts=words[::2], against=words[1::2])
    assert nothing["features"] == [] and nothing["contrast"]["n_confirmed"] == 0
    assert "unconfirmed=true" in nothing["next"][0]
    few = await call(state, "find_features", sae=sae, texts=kings[:3], against=none[:3])
    assert "Too few texts" in few["summary"] and not any(
        row["confirmed"] for row in few["features"]
    )


async def test_two_models_are_compared_on_one_sae(
    server: Server, bench: Bench, glass_dir: Path
) -> None:
    """The other model is a copy, so nothing may differ."""
    import shutil

    state, sae = server
    twin = bench.folder / "twin"
    shutil.copytree(glass_dir, twin, dirs_exist_ok=True)
    state.settings = state.settings.model_copy(update={"read_anywhere": True})
    other = (
        await call(state, "load_sae", path=str(bench.sae), model=str(twin), allow_mismatch=True)
    )["sae"]
    texts = [sentence(random.Random(i), 12, [" King"]) for i in range(8)]
    found = await call(state, "find_features", sae=sae, texts=texts, against_sae=other)
    assert not any(row["confirmed"] for row in found["features"])
    both: dict[str, Any] = {"sae": sae, "texts": texts, "against_sae": other, "unconfirmed": True}
    found = await call(state, "find_features", **both)
    rows = [row["controls"] for row in found["features"]]
    assert rows and all(row["change"] == row["perturbed"]["mean"] == 0 for row in rows)
    assert f"Of the {len(rows)} listed changes 0 are larger" in found["summary"]
    found = await call(state, "find_features", sae=sae, texts=texts, against=texts[::-1])
    assert "listed changes" not in found["summary"]
    assert (await refuse(state, "find_features", sae=sae, texts=texts, against_sae=sae))[
        "code"
    ] == "NOT_COMPARABLE"


async def test_labels_of_neuronpedia_come_only_when_asked_for_and_say_where_from(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, sae = server
    site = FakeNeuronpedia()
    monkeypatch.setenv("NEURONPEDIA_ENDPOINT", site.url)
    offline = await call(state, "describe_feature", sae=sae, feature=KING, neuronpedia=True)
    assert (
        any("Neuronpedia" in warning for warning in offline["warnings"]) and offline["labels"] == []
    )
    state.settings = state.settings.model_copy(update={"offline": False})
    metadata = state.require(sae).sae.cfg.metadata
    object.__setattr__(metadata, "neuronpedia_id", "gpt2-small/8-res-jb")
    assert (await call(state, "describe_feature", sae=sae, feature=KING))[
        "labels"
    ] == [] and site.requests == []
    card = await call(state, "describe_feature", sae=sae, feature=KING, neuronpedia=True)
    assert {label["source"] for label in card["labels"]} == {
        "neuronpedia:claude-4",
        "neuronpedia:gpt-4o-mini",
    }
    assert all(label["verdict"] == "not tested" for label in card["labels"]) and any(
        "strangers" in said for said in card["warnings"]
    )
    assert card["url"] == f"https://www.neuronpedia.org/gpt2-small/8-res-jb/{KING}"
    asked = len(site.requests)
    assert (await call(state, "find_features", sae=sae, query="puppies"))["features"][0][
        "feature"
    ] == KING  # kept
    assert len(site.requests) == asked
    site.close()


async def test_what_needs_an_index_says_how_to_get_one(bench: Bench, glass_dir: Path) -> None:
    state, sae = await bench.loaded(glass_dir, indexed=False)
    error = await refuse(state, "quiz_feature", sae=sae, feature=KING)
    assert (error["code"], error["hint"]) == ("NOT_INDEXED", f'index_features(sae="{sae}")')
    card = await call(state, "describe_feature", sae=sae, feature=KING)
    assert (
        card["density"] is None
        and card["promotes"]
        and card["next"][0] == f'index_features(sae="{sae}")'
    )
    steered = await call(
        state,
        "steer_generate",
        sae=sae,
        prompt="He",
        features=[{"feature": KING}],
        max_new_tokens=2,
        n_controls=0,
    )
    assert "probe text" in steered["unit_source"]


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("find_features", {}, "MISSING_ARGUMENT"),
        ("find_features", {"query": "a", "tokens": ["b"]}, "CONFLICTING_ARGUMENTS"),
        ("find_features", {"against": ["a"], "query": "a"}, "MISSING_ARGUMENT"),
        ("find_features", {"texts": ["a"], "against": ["b"], "offset": 3}, "CONFLICTING_ARGUMENTS"),
        ("find_features", {"tokens": ["two words"]}, "NOT_ONE_TOKEN"),
        ("describe_feature", {"feature": 12}, "FEATURE_OUT_OF_RANGE"),
        ("describe_feature", {"feature": -1}, "OUT_OF_RANGE"),
        ("quiz_feature", {"feature": 12}, "FEATURE_OUT_OF_RANGE"),
        ("quiz_feature", {"feature": 1, "n": 3}, "OUT_OF_RANGE"),
        ("label_feature", {"feature": 1, "text": " "}, "LABEL_LENGTH"),
        ("label_feature", {"feature": 1, "text": "a", "quiz_id": "q1"}, "MISSING_ARGUMENT"),
        (
            "label_feature",
            {"feature": 1, "text": "a", "quiz_id": "q1", "answers": [True]},
            "QUIZ_NOT_FOUND",
        ),
    ],
)
async def test_what_cannot_be_is_refused_with_a_code(
    server: Server, tool: str, arguments: dict[str, Any], code: str
) -> None:
    state, sae = server
    assert (await refuse(state, tool, sae=sae, **arguments))["code"] == code


async def test_a_store_of_labels_that_cannot_be_read_fails_no_other_tool(server: Server) -> None:
    state, sae = server
    QuizStore().path.write_bytes(b"no database" * 1000)
    reply = await call(state, "top_features", sae=sae, text="the King said")
    (warning,) = reply["warnings"]
    assert reply["features"] and "table of labels was damaged" in warning
    kept = list(QuizStore().path.parent.glob("labels.db.damaged-*"))
    assert kept[0].read_bytes() == b"no database" * 1000 and kept[0].name in warning


def test_answers_on_the_command_line_are_yes_and_no() -> None:
    given = {"feature": "3", "answers": ["yes,no", "true"]}
    assert arguments_from(VERBS["label_feature"], given) == {
        "feature": 3,
        "answers": [True, False, True],
    }
    assert CliRunner().invoke(app, ["describe-feature", "--help"]).exit_code == 0
