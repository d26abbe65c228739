"""Files of Neuronpedia: those that its own code made are read, those that are written here have its
columns, and come back as they were."""

import gzip
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from tests.core.neuronpedia.fake_neuronpedia import HOSTILE, neuron

from saescope.errors import ArgumentError, FormatError, ResourceError
from saescope.fence import Fence, fenced
from saescope.neuronpedia import (
    Bars,
    Exported,
    FeatureList,
    FeatureOnList,
    HostedSAE,
    Origin,
    files,
    list_body,
    own_id,
    quick_list_url,
    read_features,
    read_list,
    rows,
    write_features,
)
from saescope.neuronpedia.records import RemoteLabel
from saescope.records.card import (
    CardBin,
    CardCorpus,
    CardExample,
    CardNeighbour,
    CardToken,
    FeatureCard,
)
from saescope.records.labels import CardLabel

DATA = Path(__file__).parents[2] / "data" / "neuronpedia"
PLANTED = DATA / "gpt2-small" / "8-planted-res"
COLUMNS: dict[str, list[str]] = json.loads((DATA / "columns.json").read_text())
SAE_ID = HostedSAE("gpt2-small", "8-res-jb")
CORPUS = CardCorpus(
    dataset="alice", n_tokens=640, created="2026-11-30", n_contexts=10, context_size=64, seed=0
)


def example(activations: Sequence[float], band: str = "top") -> CardExample:
    pos = max(range(len(activations)), key=activations.__getitem__)
    tokens = [f" t{n}" for n in range(len(activations))]
    return CardExample(
        token=tokens[pos],
        activation=activations[pos],
        band=band,
        start=0,
        tokens=tokens,
        activations=list(activations),
        pos=pos,
    )


def card(feature: int, **other: Any) -> FeatureCard:
    known: dict[str, Any] = {
        "density": 0.0125,
        "n_fired": 8,
        "max_activation": 4.0,
        "mean_activation": 2.0,
        "typical_activation": 3.5,
        "quantiles": {"0.5": 2.0},
        "histogram": [CardBin(1.0, 2.0, 6), CardBin(2.0, 4.0, 2)],
        "examples": [example([0.0, 4.0, 0.5]), example([1.5, 0.0], "1..2")],
        "promotes": [CardToken(" King", 5, 1.5), CardToken(" crown", 6, 0.1)],
        "suppresses": [CardToken(" cat", 7, -0.75)],
        "labels": [CardLabel("rulers", "tester", None, "not tested", "2026-11-30")],
        "neighbours": [
            CardNeighbour(feature=9, label=None, top_token=None, promoted=None, cosine=0.61)
        ],
        "corpus": CORPUS,
    }
    return FeatureCard(
        feature=feature,
        effects_through="",
        cofiring=[],
        sae="x",
        model="openai-community/gpt2",
        hook_name="blocks.8.hook_resid_pre",
        hook_name_out="blocks.8.hook_resid_pre",
        architecture="standard",
        d_sae=24576,
        weights_hash="ab" * 32,
        url="",
        warnings=[],
        **known | other,
    )


UNKNOWN: dict[str, Any] = {
    **dict.fromkeys(("density", "n_fired", "max_activation", "mean_activation", "corpus")),
    "histogram": [],
    "examples": [],
    "labels": [],
}


def write(folder: Path, cards: Sequence[FeatureCard], sae: HostedSAE = SAE_ID) -> Path:
    origin = Origin(
        sae=sae, model="openai-community/gpt2", n_layers=12, d_model=768, title="Planted words"
    )
    made = [
        Exported(card=each, vector=[0.5, 1 / 3], logits=Bars([0.0, 1.0], [90, 10]))
        for each in cards
    ]
    return write_features(folder, origin, made).folder


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted((folder / name).iterdir())
        for line in gzip.decompress(file.read_bytes()).splitlines()
    ]


def test_an_export_of_neuronpedias_own_code_is_read() -> None:
    read = read_features(PLANTED)
    assert read.neuronpedia_id == "gpt2-small/8-planted-res" and read.name == ""
    first, second = read.cards
    assert (first.feature, second.feature) == (3, 7)
    assert first.density == 0.015625 and first.max_activation == 3.5
    assert first.promotes == ((" King", 1.5), (" Queen", 1.25), (" crown", 0.5))
    assert first.suppresses == ((" cat", -0.75), (" mat", -0.5))
    assert [label.text for label in first.labels] == ["words for rulers", "the Queen of Hearts"]
    assert first.labels[0].author == "gpt-4o-mini" and first.labels[0].method == "np_max-act"
    strongest = first.examples[0]
    assert strongest.tokens == ("The", " Queen", " of", " Hearts")
    assert strongest.activations == (0.0, 3.5, 0.25, 0.0) and strongest.pos == 1
    assert first.url == "https://www.neuronpedia.org/gpt2-small/8-planted-res/3"


def test_one_of_its_tables_and_the_folder_above_are_read_as_well(tmp_path: Path) -> None:
    whole = read_features(PLANTED)
    assert read_features(DATA / "gpt2-small") == whole == read_features(DATA)
    labels = read_features(PLANTED / "explanations" / "batch-0.jsonl.gz")
    assert [each.labels for each in labels.cards] == [each.labels for each in whole.cards]
    assert labels.cards[0].density is None and labels.cards[0].examples == ()
    plain = tmp_path / "features.jsonl"
    packed = (PLANTED / "features" / "batch-0.jsonl.gz").read_bytes()
    plain.write_bytes(gzip.decompress(packed))
    assert [each.promotes for each in read_features(plain).cards] == [
        each.promotes for each in whole.cards
    ]
    only = read_features(PLANTED, features=[7])
    assert only.cards == whole.cards[1:]


def test_the_json_of_a_feature_is_read_as_the_answer_of_the_site_is(tmp_path: Path) -> None:
    file = tmp_path / "feature.json"
    file.write_text(json.dumps(neuron(200)))
    read = read_features(file)
    assert read.neuronpedia_id == "gpt2-small/8-res-jb"
    (found,) = read.cards
    assert found.density == 0.00886 and found.labels[0].text == "words for young dogs"
    assert found.examples[0].activation == 9.0 and found.neighbours == ((77, 0.61),)
    file.write_bytes(gzip.compress(json.dumps([neuron(200), neuron(5)]).encode()))
    assert [each.feature for each in read_features(file).cards] == [5, 200]


def test_what_is_written_has_the_columns_of_neuronpedias_tables_in_their_order(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path, [card(3), card(7)])
    assert folder == tmp_path / "gpt2-small" / "8-res-jb"
    for name, of_table in (
        ("features", "Neuron"),
        ("activations", "Activation"),
        ("explanations", "Explanation"),
    ):
        written = table(folder, name)
        known = set(COLUMNS[of_table])
        assert written and all({*row} == known for row in written), name
    for name in ("release", "model", "sourceset", "source"):
        theirs, ours = (json.loads((at / f"{name}.jsonl").read_text()) for at in (PLANTED, folder))
        assert {*ours} == {*theirs}, name
        for key, value in theirs.items():
            assert value is None or ours[key] is None or type(value) is type(ours[key]), key


def test_a_written_row_says_what_the_card_says(tmp_path: Path) -> None:
    folder = write(tmp_path, [card(3)])
    (row,) = table(folder, "features")
    assert (row["modelId"], row["layer"], row["index"]) == ("gpt2-small", "8-res-jb", "3")
    assert row["sourceSetName"] == "res-jb" and row["hookName"] == "blocks.8.hook_resid_pre"
    assert row["freq_hist_data_bar_values"] == [1.5, 3.0]
    assert row["freq_hist_data_bar_heights"] == [6, 2]
    assert row["logits_hist_data_bar_heights"] == [90, 10]
    assert row["pos_str"] == [" King", " crown"] and row["neg_values"] == [-0.75]
    assert row["topkCosSimIndices"] == [9] and row["hasVector"] is True
    assert row["vector"] == [0.5, 0.333333333] and row["vectorDefaultSteerStrength"] == 4.0
    top, ranged = table(folder, "activations")
    assert (top["binMin"], top["binMax"], top["binContains"]) == (-1, -1, -1)
    assert (ranged["binMin"], ranged["binMax"], ranged["binContains"]) == (1.0, 2.0, 0.75)
    assert (top["maxValue"], top["maxValueTokenIndex"], top["minValue"]) == (4.0, 1, 0.0)
    assert len({row["id"] for row in (top, ranged)}) == 2
    (label,) = table(folder, "explanations")
    assert label["description"] == "rulers" and label["explanationModelName"] is None


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    cards = [card(3), card(7, labels=[])]
    folder = write(tmp_path, cards)
    for place in (folder, folder / "upload-0.json"):
        read = read_features(place, neuronpedia_id=str(SAE_ID))
        for found, made in zip(read.cards, cards, strict=True):
            assert found.feature == made.feature and found.density == made.density
            assert [label.text for label in found.labels] == [each.text for each in made.labels]
            assert list(found.promotes) == [(row.token, row.effect) for row in made.promotes]
            assert [list(each.activations) for each in found.examples] == [
                each.activations for each in made.examples
            ]
    assert read_features(folder).cards[0].max_activation == 4.0
    assert read_features(folder).cards[0].neighbours == ((9, 0.61),)


def test_an_export_of_the_same_features_is_the_same_but_for_its_time(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a", [card(3)]), write(tmp_path / "b", [card(3)])
    for name in ("features", "activations", "explanations"):
        first, second = ((at / name / "batch-0.jsonl.gz").read_bytes() for at in (one, other))
        assert first == second, name


def test_an_unknown_density_is_minus_one_there_and_none_here(tmp_path: Path) -> None:
    folder = write(tmp_path, [card(3, **UNKNOWN)])
    (row,) = table(folder, "features")
    assert row["frac_nonzero"] == -1 and row["maxActApprox"] is None
    assert row["vectorDefaultSteerStrength"] == 10
    (found,) = read_features(folder).cards
    assert found.density is None and found.max_activation is None
    assert not list(folder.glob("upload-*")), "an upload takes no feature without examples"


def test_a_feature_that_never_fired_has_the_maximum_zero(tmp_path: Path) -> None:
    never = card(3, density=0.0, n_fired=0, max_activation=None, histogram=[], examples=[])
    (row,) = table(write(tmp_path, [never]), "features")
    assert row["frac_nonzero"] == 0 and row["maxActApprox"] == 0


def test_an_upload_is_what_the_route_takes(tmp_path: Path) -> None:
    """Its rules, as `uploadBatchSchema` of feature/upload-batch/route.tsx has them."""
    long = example([0.0] * 1500 + [2.0] + [0.0] * 500)
    label = CardLabel("w" * 300, "tester", None, "not tested", "")
    cards = [card(n, examples=[long], labels=[label], density=None) for n in range(130)]
    cards[0] = replace(cards[0], examples=[replace(long, tokens=[""] * len(long.tokens))])
    folder = write(tmp_path, cards)
    bodies = [json.loads(file.read_text()) for file in sorted(folder.glob("upload-*.json"))]
    assert [len(body["features"]) for body in bodies] == [128, 2]
    for body in bodies:
        assert {*body} == {"modelId", "source", "features"}
        assert body["modelId"] == "gpt2-small" and body["source"] == "8-res-jb"
        for each in body["features"]:
            assert isinstance(each["index"], int) and 0 <= each["index"] <= 10_000_000
            assert "density" not in each, "null is refused where it is optional"
            assert len(each["topLogits"]) <= 20 and len(each["bottomLogits"]) <= 20
            assert all(0 < len(label["text"]) <= 512 for label in each["explanations"])
            for text in each["activations"]:
                assert 1 <= len(text["tokens"]) == len(text["values"]) <= 1024
                assert all(text["tokens"]) and max(text["values"]) == 2.0
                assert text["quantileMin"] is text["quantileMax"] is None


def test_a_list_is_the_body_of_its_route_and_comes_back(tmp_path: Path) -> None:
    folder = write(tmp_path, [card(7), card(3, labels=[])])
    body = json.loads((folder / "list.json").read_text())
    assert body == {
        "name": "Planted words",
        "description": "",
        "features": [
            {"modelId": "gpt2-small", "layer": "8-res-jb", "index": 3, "description": ""},
            {"modelId": "gpt2-small", "layer": "8-res-jb", "index": 7, "description": "rulers"},
        ],
    }
    made = read_list(folder / "list.json")
    assert list_body(made) == body
    read = read_features(folder / "list.json")
    assert read.name == "Planted words" and [each.feature for each in read.cards] == [3, 7]
    assert read.cards[1].labels == (RemoteLabel("rulers", "", "", ()),)


def test_a_list_in_each_form_of_the_site_is_read_in_its_order(tmp_path: Path) -> None:
    row = {"modelId": "gpt2-small", "layer": "8-res-jb"}
    items = [{**row, "index": "77", "description": "dogs"}, {**row, "index": "5"}]
    file = tmp_path / "list.json"
    for document in (
        {"id": "c1", "name": "Mine", "description": "", "userId": "u", "neurons": items},
        {"listId": "c1", "featuresToAdd": items},
        {"name": "Mine", "features": items},
    ):
        file.write_text(json.dumps(document))
        assert [each.feature for each in read_list(file).features] == [77, 5]
        assert [each.feature for each in read_features(file).cards] == [77, 5]
    file.write_text(json.dumps(neuron(5)))
    with pytest.raises(FormatError, match="is no list of Neuronpedia"):
        read_list(file)


def test_the_address_of_a_list_names_its_features() -> None:
    made = FeatureList("A & B", "", tuple(FeatureOnList(SAE_ID, n) for n in range(200)))
    address = urlparse(quick_list_url(made))
    asked = parse_qs(address.query)
    assert address.netloc == "www.neuronpedia.org" and address.path == "/quick-list/"
    assert asked["name"] == ["A & B"]
    shown = json.loads(asked["features"][0])
    assert shown[1] == {"modelId": "gpt2-small", "layer": "8-res-jb", "index": "1"}
    assert len(shown) == 150, "the site refuses more"


def test_an_sae_that_is_not_hosted_is_called_by_its_weights() -> None:
    name = own_id("HuggingFaceTB/SmolLM2-1.7B", "blocks.14.hook_resid_post", "ab12" * 16)
    assert str(name) == "smollm2-1-7b/14-saescope-ab12ab12ab12"
    assert HostedSAE.parse(str(name)) == name and rows.set_of(name) == "saescope-ab12ab12ab12"
    assert rows.set_of(HostedSAE("a", "3-res-jb__more")) == "res-jb"
    assert str(own_id("/models/Ünnamed/", "lm_head", "c" * 64)).startswith("nnamed/0-saescope-")


def test_nothing_is_written_among_files_that_are_there(tmp_path: Path) -> None:
    folder = write(tmp_path, [card(3)])
    before = sorted(folder.rglob("*"))
    with pytest.raises(ArgumentError) as caught:
        write(tmp_path, [card(4)])
    assert caught.value.code == "ALREADY_EXISTS" and sorted(folder.rglob("*")) == before
    other = tmp_path / "file"
    other.write_text("mine")
    with pytest.raises(ResourceError) as unwritable:
        write(other, [card(3)])
    assert unwritable.value.code == "CANNOT_WRITE" and other.read_text() == "mine"
    with pytest.raises(ArgumentError) as empty:
        write(tmp_path / "new", [])
    assert empty.value.code == "EMPTY_REQUEST" and not (tmp_path / "new").exists()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "gpt2-small").mkdir()
    (tmp_path / "gpt2-small" / "8-res-jb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArgumentError):
        write(tmp_path, [card(3)])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_nothing_is_left_where_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError) as caught:
        write(tmp_path, [card(3)])
    assert caught.value.code == "DISK_FULL" and not list((tmp_path / "gpt2-small").iterdir())


def test_features_of_another_sae_are_refused_and_of_several_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="about gpt2-small/8-planted-res, not") as caught:
        read_features(PLANTED, neuronpedia_id="gpt2-small/9-planted-res")
    assert caught.value.code == "NEURONPEDIA_OTHER_SAE"
    file = tmp_path / "features.json"
    file.write_text(json.dumps([neuron(1), {**neuron(2), "layer": "9-res-jb"}]))
    with pytest.raises(ArgumentError, match="8-res-jb, gpt2-small/9-res-jb, several SAEs"):
        read_features(file)
    read = read_features(file, neuronpedia_id="gpt2-small/9-res-jb")
    assert [each.feature for each in read.cards] == [2]
    write(tmp_path / "two", [card(3)])
    write(tmp_path / "two", [card(3)], HostedSAE("gpt2-small", "9-res-jb"))
    with pytest.raises(FormatError, match="exports of 2 SAEs") as both:
        read_features(tmp_path / "two")
    assert "gpt2-small/9-res-jb" in both.value.allowed


def test_hostile_texts_are_cleaned(tmp_path: Path) -> None:
    file = tmp_path / "feature.json"
    hostile = neuron(1, HOSTILE)
    hostile["activations"] = [{"tokens": ["a\u202e", "\x1b[31mb"], "values": [1, 2]}]
    hostile["pos_str"], hostile["pos_values"] = ["\u200b<b>"], [1.0]
    file.write_text(json.dumps(hostile))
    (found,) = read_features(file).cards
    said = json.dumps([label.text for label in found.labels])
    assert "evil.example" not in said and "<script" not in said and "\\u202e" not in said
    assert found.examples[0].tokens == ("a", "b") and found.promotes == (("<b>", 1.0),)
    body = {"name": HOSTILE, "features": [{**rows_key(), "description": HOSTILE}]}
    file.write_text(json.dumps(body))
    made = read_list(file)
    assert "evil.example" not in made.name + made.features[0].description


def rows_key() -> dict[str, Any]:
    return {"modelId": "gpt2-small", "layer": "8-res-jb", "index": 1}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no valid JSON"),
        (b"\x1f\x8b\x08torn", "no whole gzip file"),
        (b"{", "no valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "no"),
        (b"17", "holds no feature"),
        (b'{"modelId": "../..", "layer": "x", "index": 1}', "holds no feature"),
        (b'{"modelId": "gpt2", "layer": "8-a", "index": -1}', "holds no feature"),
        (b'{"modelId": "gpt2", "layer": "8-a", "index": 1e99}', "holds no feature"),
        (b'{"modelId": "gpt2", "layer": "8-a", "index": 1, "pos_str": 5}', "another shape"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_why(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "feature.json"
    file.write_bytes(content)
    with pytest.raises(FormatError, match=why) as caught:
        read_features(file)
    assert caught.value.code.startswith("NEURONPEDIA_")


def test_a_torn_table_is_an_error_that_says_in_which_line(tmp_path: Path) -> None:
    whole = (PLANTED / "features" / "batch-0.jsonl.gz").read_bytes()
    file = tmp_path / "batch-0.jsonl.gz"
    for content in (whole[:-20], whole[:60], b"{}", gzip.compress(b'{"a": 1}\n{"b"')):
        file.write_bytes(content)
        with pytest.raises(FormatError, match=r"in line [123]"):
            read_features(file)


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "feature.json"
    row = {**neuron(1), "maxActApprox": math.nan, "frac_nonzero": 7.0}
    row["activations"] = [{"tokens": ["a"], "values": [math.inf]}]
    file.write_text(json.dumps(row))
    (found,) = read_features(file).cards
    assert found.max_activation is None and found.density is None and found.examples == ()


def test_what_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LINE_BYTES", 1000)
    monkeypatch.setattr(files, "TEXT_BYTES", 5000)
    monkeypatch.setattr(files, "DOCUMENT_BYTES", 5000)
    file = tmp_path / "batch-0.jsonl.gz"
    for content in (b" " * 2000, b"{}\n" * 3000):
        file.write_bytes(gzip.compress(content))
        with pytest.raises(FormatError, match="is longer than"):
            read_features(file)
    document = tmp_path / "feature.json"
    document.write_bytes(gzip.compress(b" " * 9000))
    with pytest.raises(FormatError, match="unpacks to more than"):
        read_features(document)


def test_pipes_and_files_outside_the_fence_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(FormatError) as pipe:
        read_features(tmp_path / "pipe.jsonl")
    assert pipe.value.code == "FILE_SUSPICIOUS"
    inside = tmp_path / "inside"
    (inside / "features").mkdir(parents=True)
    outside = PLANTED / "features" / "batch-0.jsonl.gz"
    (inside / "features" / "batch-0.jsonl.gz").symlink_to(outside)
    with fenced(Fence.around([inside])):
        for place in (PLANTED, inside):
            with pytest.raises(ArgumentError) as caught:
                read_features(place)
            assert caught.value.code == "PATH_NOT_ALLOWED"
