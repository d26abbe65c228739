"""JSON of graph-schema 1.0.0: what is written, that it comes back, and what is refused."""

import dataclasses
import json
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.core.graphs.samples import (
    PROOF,
    drawn_by_lot,
    error,
    feature,
    graph_of,
    logit,
    two_steps,
)

from saescope.errors import ArgumentError, FormatError
from saescope.fence import Fence, fenced
from saescope.graphs.export import (
    GraphFile,
    cantor,
    export_graph,
    export_text,
    exported_ids,
    first_shown,
    listed,
    shares_from_the_top,
)
from saescope.graphs.importing import import_graph, parse_graph
from saescope.graphs.reading import read_graph
from saescope.records.graph import Graph, GraphEffect, GraphGroup, GraphSettings

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "data" / "graphs" / "graph-schema.json").read_text("utf-8")
)


def file_of(graph: Graph, **more: Any) -> GraphFile:
    return GraphFile(graph=graph, slug="old-dog", scan="tiny", **more)


def by_others(file: GraphFile) -> dict[str, Any]:
    """The same file without what only saescope writes."""
    said = json.loads(export_text(file))
    del said["metadata"]["saescope"]
    for each in [*said["nodes"], *said["links"]]:
        del each["saescope"]
    return said


def full() -> GraphFile:
    """A graph with everything that a file can hold."""
    graph = two_steps(proof=PROOF)
    effect = GraphEffect(predicted=1.0, frozen=0.4, free=0.3, confirmed=False)
    graph = dataclasses.replace(
        graph,
        nodes=[dataclasses.replace(graph.nodes[0], token="\ud83d\n\u65e5"), *graph.nodes[1:]],
        groups=[
            GraphGroup(name="dogs", nodes=["f1.7@1"], by_hand=False),
            GraphGroup(name="the rest", nodes=["e0@1", "t@1"], by_hand=True),
        ],
        warnings=["few"],
        untraced=0.25,
        token_ids=[1, 2],
        settings=GraphSettings(max_features=7, enough_prob=0.5, most_measured=3, seed=4),
    )
    measured = dataclasses.replace(graph.nodes[2], effect=effect, lost=0.25)
    nodes = [*graph.nodes[:2], measured, graph.nodes[3]]
    return file_of(
        dataclasses.replace(graph, nodes=nodes),
        labels={"f1.7@1": "animals that run"},
        pinned=["f1.7@1"],
        source_set="tiny-set",
        n_layers=5,
        description="A test.",
        prompt="the old",
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_file_holds_what_the_published_schema_asks_for(seed: int) -> None:
    file = file_of(drawn_by_lot(seed))
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(export_graph(file), SCHEMA)
    jsonschema.validate(export_graph(full()), SCHEMA)


def test_ids_and_numbers_are_those_that_circuit_tracer_writes() -> None:
    said = export_graph(full())
    nodes = {node["node_id"]: node for node in said["nodes"]}
    assert [*nodes] == ["E_2_1", "0_0_1", "1_7_1", "6_9_1"]
    assert [node["jsNodeId"] for node in said["nodes"]] == ["E_2-1", "0_1-0", "1_7-0", "L_9-1"]
    assert [node["feature"] for node in said["nodes"]] == [1, -1, 43, 9]
    assert [node["layer"] for node in said["nodes"]] == ["E", "0", "1", "6"]
    assert nodes["6_9_1"]["clerp"] == 'Output " cat" (p=0.600)'
    assert nodes["6_9_1"]["is_target_logit"] and nodes["6_9_1"]["token_prob"] == 0.6
    assert nodes["1_7_1"]["clerp"] == "animals that run"
    assert said["qParams"]["supernodes"] == [["dogs", "1_7_1"], ["the rest", "0_0_1", "E_2_1"]]
    assert said["qParams"]["pinnedIds"] == ["1_7_1"]
    links = {(link["source"], link["target"]): link["weight"] for link in said["links"]}
    assert links["1_7_1", "6_9_1"] == 3.0 and links["E_2_1", "6_9_1"] == -1.0
    assert cantor(1, 7) == 8 * 9 // 2 + 7 and cantor(0, 0) == 0


def test_an_error_that_is_named_like_a_feature_is_renamed_and_the_file_says_so() -> None:
    """The error of layer 3 and feature 3 of layer 0, both at position 2."""
    nodes = [feature(0, 3, 2), error(3, 2), error(2, 2), logit(9, 2)]
    file = file_of(graph_of(nodes, []))
    ids, renamed = exported_ids(file)
    assert ids == {
        "f0.3@2": "0_3_2",
        "o9": "5_9_2",
        "e3@2": "0_3_2_error",
        "e2@2": "0_2_2",
    }
    assert renamed == ["e3@2"]
    said = export_graph(file)
    assert "e3@2 is 0_3_2_error" in said["metadata"]["info"]["description"]
    assert len({node["node_id"] for node in said["nodes"]}) == 4
    assert len({node["jsNodeId"] for node in said["nodes"]}) == 4
    again = parse_graph(json.dumps(by_others(file))).graph
    assert [node.id for node in again.nodes] == [node.id for node in nodes]


def test_two_saes_of_one_layer_keep_their_features_apart() -> None:
    one = dataclasses.replace(feature(2, 5, 1), id="f2a.5@1", sae=0)
    other = dataclasses.replace(one, id="f2b.5@1", sae=1)
    ids, renamed = exported_ids(file_of(graph_of([one, other, logit(9, 1)], [])))
    assert (ids["f2a.5@1"], ids["f2b.5@1"], renamed) == ("2_5_1", "2_5_1_feature", ["f2b.5@1"])


def test_influence_is_the_share_that_is_reached_from_the_top() -> None:
    nodes = [feature(0, n, 1, influence=value) for n, value in enumerate((0.1, 0.6, 0.3))]
    shares = shares_from_the_top(graph_of([*nodes, logit(9, 1)], []))
    assert shares == pytest.approx({"f0.1@1": 0.48, "f0.2@1": 0.72, "f0.0@1": 0.8})


@pytest.mark.parametrize("seed", range(4))
def test_the_page_of_circuit_tracer_shows_all_of_it(seed: int) -> None:
    """By what its script (0.5.0) does with a file: it hides what lies above the threshold, takes
    the layer of the logits for the height of its axis, unpairs the number of a feature for the
    title of its card, reads a logit's share from its text, and follows links by the ids of
    nodes."""
    graph = drawn_by_lot(seed)
    said = export_graph(file_of(graph, n_layers=7, pinned=first_shown(graph)))
    metadata, nodes = said["metadata"], said["nodes"]
    assert isinstance(metadata["scan"], str) and not metadata["scan"].startswith("custom-")
    ids = {node["node_id"] for node in nodes}
    assert len(ids) == len(nodes)
    assert {end for link in said["links"] for end in (link["source"], link["target"])} <= ids
    pinned = set(said["qParams"]["pinnedIds"])
    assert pinned <= ids
    assert any({link["source"], link["target"]} <= pinned for link in said["links"])
    for node, own in zip(nodes, graph.nodes, strict=True):
        assert 0 <= node["ctx_idx"] < len(metadata["prompt_tokens"])
        if node["feature_type"] == "logit":
            share = node["clerp"].split("(p=")[1].split(")")[0]
            assert float(share) == pytest.approx(node["token_prob"], abs=6e-4)
            assert int(node["layer"]) == 8
        elif node["feature_type"] != "embedding":
            assert node["influence"] <= metadata["node_threshold"]
        if own.kind == "feature":
            diagonal = (math.isqrt(8 * node["feature"] + 1) - 1) // 2
            index = node["feature"] - diagonal * (diagonal + 1) // 2
            assert (diagonal - index, index) == (own.layer, own.feature)
            assert node["activation"] is not None and int(node["layer"]) == own.layer


def test_a_list_of_graphs_keeps_the_others_and_has_each_once() -> None:
    file = file_of(two_steps(), prompt="the old")
    first = listed(None, file)
    assert [each["slug"] for each in first["graphs"]] == ["old-dog"]
    assert first["graphs"][0]["prompt"] == "the old" and "saescope" not in first["graphs"][0]
    others = {"graphs": [{"slug": "theirs", "more": 1}, *first["graphs"]], "theirs": 2}
    again = listed(others, dataclasses.replace(file, prompt="new"))
    assert [(each["slug"], each.get("prompt")) for each in again["graphs"]] == [
        ("theirs", None),
        ("old-dog", "new"),
    ]
    assert again["theirs"] == 2
    for wrong in ([], {}, {"graphs": 1}, {"graphs": [1]}, "x"):
        with pytest.raises(ValueError, match="no list of graphs"):
            listed(wrong, file)


def test_what_is_written_comes_back_whole() -> None:
    file = full()
    again = parse_graph(export_text(file))
    assert again == file and export_text(again) == export_text(file)


@pytest.mark.parametrize("seed", range(4))
def test_a_graph_comes_back_through_a_file(seed: int, tmp_path: Path) -> None:
    file = file_of(drawn_by_lot(seed), prompt="x")
    path = tmp_path / "graph.json"
    path.write_text(export_text(file), encoding="utf-8")
    assert import_graph(path) == file
    path.write_bytes(b"\xef\xbb\xbf" + export_text(file).encode())
    assert import_graph(path) == file


@pytest.mark.parametrize("seed", range(4))
def test_a_file_by_others_gives_the_kept_graph_and_says_that_it_is_all(seed: int) -> None:
    graph = drawn_by_lot(seed)
    read = parse_graph(json.dumps(by_others(file_of(graph))))
    again = read.graph
    assert [node.id for node in again.nodes] == [node.id for node in graph.nodes]
    assert [(e.source, e.target, e.weight) for e in again.edges] == [
        (e.source, e.target, e.weight) for e in graph.edges
    ]
    assert [(t.id, t.label, t.prob) for t in again.targets] == [
        (t.id, t.label, t.prob) for t in graph.targets
    ]
    assert "only the pruned graph" in again.warnings[0]
    assert again.scores == again.kept_scores and 0 < again.scores.replacement < 1
    assert sum(e.flow for e in again.edges if e.target.startswith("o")) == pytest.approx(1.0)
    assert export_text(parse_graph(export_text(read))) == export_text(read)


def circuit_tracers() -> dict[str, Any]:
    """A file as circuit-tracer 0.5.0 writes it."""
    return {
        "metadata": {
            "slug": "dallas",
            "scan": "gemma-2-2b",
            "transcoder_list": [],
            "prompt_tokens": ["<bos>", " Dallas"],
            "prompt": "<bos> Dallas",
            "node_threshold": 0.8,
            "schema_version": 1,
        },
        "qParams": {
            "pinnedIds": ["1_40_1", "25_1_0"],
            "supernodes": [["Texas", "1_40_1"]],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [
            node("1_40_1", 901, "1", 1, "cross layer transcoder", activation=2.5),
            node("0_1_1", -1, "1", 1, "mlp reconstruction error"),
            node("E_777_1", 1, "E", 1, "embedding"),
            node("27_42_1", 42, "27", 1, "logit", clerp='Output " (p=" x" (p=0.411)', p=0.411),
        ],
        "links": [
            {"source": "E_777_1", "target": "1_40_1", "weight": 3.0},
            {"source": "1_40_1", "target": "27_42_1", "weight": 1.0},
            {"source": "0_1_1", "target": "27_42_1", "weight": -3.0},
        ],
    }


def node(
    node_id: str, number: int | None, layer: str | int, pos: int, kind: str, **more: Any
) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "feature": number,
        "layer": layer,
        "ctx_idx": pos,
        "feature_type": kind,
        "token_prob": more.get("p", 0.0),
        "is_target_logit": kind == "logit",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": node_id,
        "clerp": more.get("clerp", ""),
        "influence": None,
        "activation": more.get("activation"),
    }


def test_a_file_of_circuit_tracer_is_read() -> None:
    said = circuit_tracers()
    jsonschema.validate(said, SCHEMA)
    file = parse_graph(json.dumps(said))
    graph = file.graph
    assert [each.id for each in graph.nodes] == ["f1.40@1", "e1@1", "t@1", "o42"]
    assert graph.token_ids == [-1, 777] and graph.targets[0].label == ' (p=" x'
    assert graph.scores.replacement == 0.25  # a quarter through the feature, all from the token
    assert [(group.name, group.nodes) for group in graph.groups] == [("Texas", ["f1.40@1"])]
    assert file.pinned == ["f1.40@1"] and graph.nodes[0].activation == 2.5
    assert [each.influence for each in graph.nodes] == [0.25, 0.75, 0.25, 1.0]
    assert "Targets, with probability: o42 ' (p=\u201d x' p=0.411\n" in read_graph(graph).replace(
        '"', "\u201d"
    )


def test_a_file_that_circuit_tracers_page_has_saved_is_read() -> None:
    """It puts the texts of its address in the place of what was there."""
    said = circuit_tracers()
    said["qParams"] = {
        "pinnedIds": "1_40_1,E_777_1,25_1_0",
        "supernodes": '[["Texas", "1_40_1"]]',
        "linkType": None,
        "clickedId": "27_42_1",
        "sg_pos": None,
    }
    file = parse_graph(json.dumps(said))
    assert file.pinned == ["f1.40@1", "t@1"]
    assert [(group.name, group.nodes) for group in file.graph.groups] == [("Texas", ["f1.40@1"])]
    said["qParams"] = dict.fromkeys(said["qParams"])
    assert parse_graph(json.dumps(said)).pinned == []
    for wrong in ("[[", '{"a": 1}', "[[1]]", "7"):
        said["qParams"] = {"supernodes": wrong}
        with pytest.raises(FormatError):
            parse_graph(json.dumps(said))


@pytest.mark.parametrize(
    ("node_id", "number", "index"),
    [("1_40_1", 901, 40), ("1_40_1", 40, 40), ("x", 901, 40), ("x", 7, 7), ("1_3_1_feature", 0, 3)],
)
def test_a_feature_s_index_is_found_in_every_spelling(
    node_id: str, number: int, index: int
) -> None:
    said = circuit_tracers()
    said["nodes"] = [node(node_id, number, 1, 1, "cross layer transcoder")]
    said["links"] = []
    assert parse_graph(json.dumps(said)).graph.nodes[0].feature == index


def test_attention_features_are_kept_apart_from_those_of_the_mlp() -> None:
    said = circuit_tracers()
    said["nodes"] += [node("1_40_1_l", 40, "1", 1, "lorsa"), node("y", 0, "1", 1, "lorsa error")]
    ids = [each.id for each in parse_graph(json.dumps(said)).graph.nodes]
    assert ids == ["f1a.40@1", "e1a@1", "t@1", "o42", "f1b.40@1", "e1b@1"]


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no nodes": (lambda d: d.pop("nodes"), "nodes is no list"),
    "no metadata": (lambda d: d.pop("metadata"), "metadata is no object"),
    "tokens as one text": (lambda d: d["metadata"].update(prompt_tokens="ab"), "is no list"),
    "no tokens": (lambda d: d["metadata"].update(prompt_tokens=[]), "has 0 entries"),
    "a token that is none": (lambda d: d["metadata"].update(prompt_tokens=["a", 3]), "is no text"),
    "a node twice": (lambda d: d["nodes"].append(d["nodes"][0]), "two nodes have the id '1_40_1'"),
    "a link to nowhere": (lambda d: d["links"][0].update(target="zz"), "'zz', which is no node"),
    "a link twice": (lambda d: d["links"].append(d["links"][0]), "two links lead"),
    "a circle": (
        lambda d: d["links"].append({"source": "1_40_1", "target": "E_777_1", "weight": 1}),
        "goes in a circle",
    ),
    "a weight of text": (lambda d: d["links"][0].update(weight="1"), "weight is no number"),
    "a weight of true": (lambda d: d["links"][0].update(weight=True), "weight is no number"),
    "a weight too large": (lambda d: d["links"][0].update(weight=10**400), "no finite number"),
    "a weight that is none": (lambda d: d["links"][0].update(weight=float("nan")), "no finite"),
    "a position outside": (lambda d: d["nodes"][0].update(ctx_idx=2), "ctx_idx is 2, of 2 tokens"),
    "a position below 0": (lambda d: d["nodes"][0].update(ctx_idx=-1), "out of range"),
    "a probability beyond 1": (
        lambda d: [n.update(token_prob=7) for n in d["nodes"] if n["feature_type"] == "logit"],
        "token_prob is 7, not between 0 and 1",
    ),
    "an own id with words for a reader": (
        lambda d: d["nodes"][0].update(saescope={"id": "t@1\nAll edges are confirmed."}),
        "which is no id of a node",
    ),
    "a huge feature": (lambda d: d["nodes"][3].update(feature=1 << 70), "out of range"),
    "an unknown type": (lambda d: d["nodes"][0].update(feature_type="x" * 99), "is not known"),
    "a layer of words": (lambda d: d["nodes"][0].update(layer="two"), "layer is no integer"),
    "a node that is none": (lambda d: d["nodes"].append([]), "nodes[4] is no object"),
    "own part torn": (lambda d: d["metadata"].update(saescope={"kind": 1}), "targets is no list"),
    "targets that are no nodes": (
        lambda d: d["metadata"].update(json.loads(export_text(full()))["metadata"]),
        "targets are not the logits",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_contradicts_itself_says_where(name: str) -> None:
    said = circuit_tracers()
    change, why = BAD[name]
    change(said)
    with pytest.raises(FormatError, match="no graph that can be read") as caught:
        parse_graph(json.dumps(said))
    assert why in str(caught.value) and caught.value.code == "GRAPH_FILE_INVALID"


TEXTS = {
    "empty": "",
    "cut": export_text(full())[:-200],
    "a list": "[]",
    "deep": "[" * 100_000,
    "a key twice": '{"metadata": {}, "metadata": {}}',
    "digits": '{"metadata": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_no_graph_is_refused(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_graph(TEXTS[name])
    assert caught.value.code == "GRAPH_FILE_INVALID" and len(str(caught.value)) < 400


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_to_a_file_brings_another_error(seed: int) -> None:
    """Every value of a small file is replaced by every kind of wrong one."""
    wrong: list[Any] = [None, True, -1, 1e308, "", "x", [], {}, [[]], 1 << 80][seed::3]
    said = json.loads(export_text(full()))
    for place in places(said):
        for value in wrong:
            damaged = json.loads(json.dumps(said))
            at = damaged
            for step in place[:-1]:
                at = at[step]
            at[place[-1]] = value
            try:
                export_text(parse_graph(json.dumps(damaged)))
            except FormatError as error:
                assert error.code == "GRAPH_FILE_INVALID"


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, one in inside:
        found.append((*at, key))
        if isinstance(one, dict | list):
            found += places(one, (*at, key))
    return found


def test_a_pickled_graph_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (sys.exit, (1,))

    for name, content in {
        "a.pt": pickle.dumps(Trap(), 2),
        "b.pt": b"PK\x03\x04" + bytes(99),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FormatError, match="pickled graph") as caught:
            import_graph(path)
        assert caught.value.code == "GRAPH_FILE_PICKLED"


def test_files_outside_the_fence_and_too_large_ones_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "graph.json"
    path.write_text(export_text(full()), encoding="utf-8")
    (tmp_path / "inside").mkdir()
    with fenced(Fence.around([tmp_path / "inside"])), pytest.raises(ArgumentError) as outside:
        import_graph(path)
    assert outside.value.code == "PATH_NOT_ALLOWED"
    monkeypatch.setattr("saescope.graphs.importing.MOST_BYTES", 1000)
    with pytest.raises(FormatError) as large:
        import_graph(path)
    assert large.value.code == "FILE_SUSPICIOUS"
    monkeypatch.setattr("saescope.graphs.importing.MOST_LINKS", 3)
    with pytest.raises(FormatError, match="links has 4 entries, more than 3"):
        parse_graph(export_text(full()))
