"""Several SAEs of one model in one call, through a real client, against plain transformers with
plain PyTorch hooks."""

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
import torch
from mcp import Client
from safetensors.torch import load_file
from tests.attack.families import build
from tests.attack.plain import Change, Plain
from tests.server.helpers import call, empties, refuse, save_random_sae
from torch import Tensor
from typer.testing import CliRunner

from saescope_mcp.app import build_server
from saescope_mcp.cli.commands import app
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

if TYPE_CHECKING:
    from saescope.models import LanguageModel

FAMILIES = ("gpt2", "gemma2", "llama", "gpt_neox", "bloom")
HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
TEXT = "The old man saw the little house by the"
one_family = pytest.mark.parametrize("desk", FAMILIES[:1], indirect=True)
"""For what is decided before the model runs."""
Weights = Mapping[str, Tensor]
Wanted = Callable[[Tensor], Tensor]
"""Takes an SAE's activations in a run and returns those that are to stand there."""


@dataclass(frozen=True)
class Desk:
    """Two SAEs on neighbouring layers: loaded, and as the files that they were loaded from."""

    state: AppState
    handles: list[str]
    plain: Plain
    weights: Sequence[Weights]
    ids: Tensor
    model: Path
    saes: list[Path]

    @property
    def counted(self) -> list[int]:
        return list(range(1, self.ids.shape[1]))

    def acts(self, n: int, x: Tensor) -> Tensor:
        """TopK of 8 as in its paper, in float64."""
        w = {name: tensor.double() for name, tensor in self.weights[n].items()}
        pre = (x.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        kept = pre.topk(8, dim=-1).indices
        return torch.zeros_like(pre).scatter(-1, kept, pre.gather(-1, kept).relu())

    def read(self, n: int, changes: Mapping[str, Change] | None = None) -> Tensor:
        """The activation at the site of SAE `n`, `[n_pos, d]`, in a run with changes below it."""
        seen: list[Tensor] = []

        def look(x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return x

        self.plain.logits(self.ids, {**(changes or {}), HOOKS[n]: look})
        return seen[0][0]

    def changes(self, wanted: Mapping[int, Wanted]) -> dict[str, Change]:
        """Hooks that add `(f' - f) W_dec` at each site: what the SAE does not reconstruct stays."""

        def change(n: int) -> Change:
            def edit(x: Tensor) -> Tensor:
                acts = self.acts(n, x)
                return (
                    x.double() + (wanted[n](acts) - acts) @ self.weights[n]["W_dec"].double()
                ).to(x)

            return edit

        return {HOOKS[n]: change(n) for n in sorted(wanted)}

    def logits(self, wanted: Mapping[int, Wanted] | None = None) -> Tensor:
        return self.plain.logits(self.ids, self.changes(wanted or {}))[0, -1].double()


@pytest.fixture(
    scope="module", params=[*FAMILIES[:-1], pytest.param(FAMILIES[-1], marks=pytest.mark.slow)]
)
def desk(
    request: pytest.FixtureRequest,
    glass: "LanguageModel",
    glass_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    from transformers import AutoTokenizer

    place = tmp_path_factory.mktemp("several")
    folder = build(request.param, place / request.param, AutoTokenizer.from_pretrained(glass_dir))
    paths = [
        save_random_sae(place / f"sae{n}", hook_name=hook, d_in=32, seed=n)
        for n, hook in enumerate(HOOKS)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        state = AppState(Settings(read_roots=(place,), write_roots=(place,), offline=True))
        handles = [anyio.run(load, state, path, folder) for path in paths]
        ids = torch.tensor([glass.tokenize(TEXT, prepend_bos=False).ids.tolist()])
        weights = [load_file(path / "sae_weights.safetensors") for path in paths]
        yield Desk(state, handles, Plain(folder), weights, ids, folder, paths)
    state.close()


async def load(state: AppState, path: Path, model: Path) -> str:
    while (reply := await call(state, "load_sae", path=str(path), model=str(model)))[
        "state"
    ] != "done":
        pass
    return reply["sae"]


@asynccontextmanager
async def client_of(desk: Desk) -> AsyncGenerator[Callable[..., Any]]:
    async with Client(build_server(state=desk.state)) as client:
        left_out = await empties(client)  # one that knows the schemas checks every result

        async def ask(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error and result.structured_content, result.content
            return left_out[tool] | result.structured_content

        yield ask


TAKING_SEVERAL = [
    ("encode_text", "text", "tokens"),
    ("top_features", "text", "features"),
    ("attribute_logit", "prompt", "features"),
]


def asked_of(one: str, other: str) -> list[tuple[str, dict[str, Any]]]:
    """A call of each tool with two SAEs."""
    changed = [{"sae": sae, "feature": 1} for sae in (one, other)]
    return [
        *((tool, {"saes": [one, other], field: TEXT}) for tool, field, _ in TAKING_SEVERAL),
        ("intervene", {"prompt": TEXT, "edits": changed}),
        ("steer_generate", {"prompt": TEXT, "features": changed}),
    ]


TARGET = 7
"""The logit whose gradient `Plain` knows."""


def ablated(places: Sequence[tuple[int, int, int]]) -> dict[int, Wanted]:
    """(SAE, feature, position) triples set to zero, in the run that holds those below."""

    def of(n: int) -> Wanted:
        def wanted(acts: Tensor) -> Tensor:
            left = acts.clone()
            for sae, feature, pos in places:
                if sae == n:
                    left[..., pos, feature] = 0
            return left

        return wanted

    return {n: of(n) for n in {sae for sae, _, _ in places}}


def close(ours: Any, expected: Any, tolerance: float = 2e-3) -> None:
    """Equal to `tolerance` of the largest value; replies have four digits."""
    ours, expected = (torch.as_tensor(x, dtype=torch.float64) for x in (ours, expected))
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= tolerance * float(expected.abs().max())


async def test_each_token_has_a_row_for_every_sae(desk: Desk) -> None:
    async with client_of(desk) as ask:
        asked = {"saes": desk.handles, "text": TEXT, "top_k": 8, "limit": 100}
        reply = await ask("encode_text", **asked, response_format="detailed")
    expected = [desk.acts(n, desk.read(n)) for n in range(2)]
    places = [(row["pos"], row["sae"]) for row in reply["tokens"]]
    assert places == [(pos, sae) for pos in desk.counted for sae in desk.handles]
    for row in reply["tokens"]:
        acts = expected[desk.handles.index(row["sae"])][row["pos"]]
        assert row["l0"] == int((acts > 0).sum())
        close(
            [f["activation"] for f in row["features"]],
            acts[[f["feature"] for f in row["features"]]],
        )
    assert [row["sae"] for row in reply["by_sae"]] == desk.handles
    close(
        [row["l0_mean"] for row in reply["by_sae"]],
        [float((a[1:] > 0).sum(1).double().mean()) for a in expected],
    )
    assert reply["l0_mean"] is reply["explained_variance"] is reply["cosine"] is None
    assert reply["total"] == 2 * reply["n_tokens"] == 2 * len(desk.counted)


@one_family
async def test_pages_of_tokens_of_several_saes_join_up(desk: Desk) -> None:
    asked = {"saes": desk.handles, "text": TEXT}
    async with client_of(desk) as ask:
        whole = await ask("encode_text", **asked, limit=100)
        first = await ask("encode_text", **asked, limit=5)
        rest = await ask("encode_text", **asked, limit=100, offset=first["next_offset"])
        next_page = await ask("encode_text", **asked, limit=5, response_format="detailed")
    assert first["tokens"] + rest["tokens"] == whole["tokens"]
    page = next_page["next"][0]
    assert desk.handles[1] in page and "offset=5" in page


@pytest.mark.parametrize("rank_by", ["max", "count"])
async def test_features_of_all_saes_stand_in_one_list(desk: Desk, rank_by: str) -> None:
    async with client_of(desk) as ask:
        asked = {"saes": desk.handles, "text": TEXT, "rank_by": rank_by, "k": 40}
        reply = await ask("top_features", **asked, response_format="detailed")
    scores = torch.stack(
        [
            (acts.amax(0) if rank_by == "max" else (acts > 0).sum(0).double())
            for acts in (desk.acts(n, desk.read(n))[1:] for n in range(2))
        ]
    )
    assert reply["total"] == int((scores > 0).sum())
    assert [row["total"] for row in reply["by_sae"]] == (scores > 0).sum(1).tolist()
    close(
        [row["score"] for row in reply["features"]],
        scores[scores > 0].sort(descending=True).values[:40],
    )
    for row in reply["features"]:
        close([row["score"]], [scores[desk.handles.index(row["sae"]), row["feature"]]])
    assert {row["sae"] for row in reply["features"]} == {*desk.handles}
    assert f'describe_feature(sae="{reply["features"][0]["sae"]}"' in reply["next"][0]
    assert any("different units" in warning for warning in reply["warnings"]) is (rank_by == "max")


async def test_attributions_are_total_gradients_and_the_errors_of_all_saes_are_kept(
    desk: Desk,
) -> None:
    async with client_of(desk) as ask:
        reply = await ask(
            "attribute_logit",
            **{"saes": desk.handles, "prompt": TEXT, "target": f"#{TARGET}"},
            **{"k": 12, "validate": False, "measure": "logit"},
        )
    expected: list[Tensor] = []
    for n, row in enumerate(reply["by_sae"]):
        x, w = desk.read(n).double(), {key: t.double() for key, t in desk.weights[n].items()}
        zero = torch.zeros_like(x).float()[None]
        gradient = desk.plain.gradient(desk.ids, HOOKS[n], zero)[0].double()
        acts = desk.acts(n, x)
        expected.append((acts * (gradient @ w["W_dec"].T))[desk.counted])
        errors = ((x - acts @ w["W_dec"] - w["b_dec"]) * gradient)[desk.counted]
        close(row["error_attribution"], errors.sum())
        nodes = errors.sum(-1).abs().sum()  # one node a position
        share = nodes / (nodes + expected[n].abs().sum())
        close(row["error_share"], share)
        assert row["sae"] == desk.handles[n] and row["total"] == int((acts[1:] > 0).sum())
    strongest = torch.cat([each.flatten() for each in expected]).abs().sort(descending=True).values
    close([abs(row["attribution"]) for row in reply["features"]], strongest[:12])
    for row in reply["features"]:
        found = expected[desk.handles.index(row["sae"])][row["pos"] - 1, row["feature"]]
        close(row["attribution"], found)
    assert reply["error_share"] is reply["error_attribution"] is reply["completeness"] is None
    assert any("Do not add them up" in warning for warning in reply["warnings"])


async def test_effects_are_measured_in_the_run_that_holds_the_edits_below(desk: Desk) -> None:
    async with client_of(desk) as ask:
        reply = await ask(
            "attribute_logit",
            **{"saes": desk.handles, "prompt": TEXT, "target": f"#{TARGET}", "k": 12},
        )
    places = [
        (desk.handles.index(row["sae"]), row["feature"], row["pos"]) for row in reply["features"]
    ]
    assert {sae for sae, _, _ in places} == {0, 1}
    clean = desk.logits().log_softmax(-1)[TARGET]
    close(
        [row["measured_effect"] for row in reply["features"]],
        torch.stack(
            [clean - desk.logits(ablated([place])).log_softmax(-1)[TARGET] for place in places]
        ),
    )
    close(
        reply["joint"]["measured_effect"],
        clean - desk.logits(ablated(places)).log_softmax(-1)[TARGET],
    )
    assert reply["joint"]["control"]["n"] == 19 and reply["evidence"] == "controlled"
    top = reply["features"][0]
    assert f'intervene(sae="{top["sae"]}"' in reply["next"][0]
    assert all(handle in reply["summary"] for handle in desk.handles)


async def test_an_edit_below_is_seen_by_the_sae_above(desk: Desk) -> None:
    pos = desk.counted[-1]
    push, kept = 3, int(desk.acts(1, desk.read(1))[pos].argmax())
    below = {0: lambda acts: acts + 4.0 * one_hot(acts, pos, push)}
    above = {1: lambda acts: acts * (1 - one_hot(acts, pos, kept))}
    async with client_of(desk) as ask:
        reply = await ask(
            "intervene",
            sae=desk.handles[0],
            prompt=TEXT,
            edits=[
                {"feature": push, "strength": 4.0, "positions": [pos]},
                {"feature": kept, "mode": "ablate", "positions": [pos], "sae": desk.handles[1]},
            ],
            unit="raw",
            target=f"#{TARGET}",
        )
    clean, edited = desk.logits(), desk.logits(below | above)
    close(reply["delta_logit"], edited[TARGET] - clean[TARGET])
    close(reply["after"]["target"]["prob"], edited.softmax(-1)[TARGET])
    seen = desk.acts(1, desk.read(1, desk.changes(below)))[pos, kept]
    assert abs(float(seen - desk.acts(1, desk.read(1))[pos, kept])) > 1e-3
    assert [(row["sae"], row["feature"]) for row in reply["features"]] == [
        (desk.handles[0], push),
        (desk.handles[1], kept),
    ]


def one_hot(acts: Tensor, pos: int, feature: int) -> Tensor:
    there = torch.zeros_like(acts)
    there[..., pos, feature] = 1
    return there


async def test_editing_none_of_several_saes_changes_no_bit(desk: Desk) -> None:
    edits = [{"feature": 5, "mode": "scale", "strength": 1.0, "sae": sae} for sae in desk.handles]
    asked: dict[str, Any] = {"prompt": TEXT, "n_controls": 0, "response_format": "detailed"}
    async with client_of(desk) as ask:
        reply = await ask("intervene", edits=edits, **asked)
    assert reply["delta_logit"] == 0 == reply["kl"] and reply["before"] == reply["after"]


async def test_steering_two_saes_writes_what_a_plain_model_writes(desk: Desk) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(desk.model)
    features = [(0, 3, 2.0), (1, 5, 4.0)]
    async with client_of(desk) as ask:
        reply = await ask(
            "steer_generate",
            prompt=TEXT,
            features=[
                {"sae": desk.handles[sae], "feature": i, "strength": strength, "mode": "clamp"}
                for sae, i, strength in features
            ],
            **{"unit": "raw", "max_new_tokens": 5, "n_controls": 1},
        )
    ids = desk.ids
    for _ in range(5):
        counted = ~torch.isin(ids[0], torch.tensor(tokenizer.all_special_ids))
        counted[0] = False

        def clamped(i: int, strength: float, counted: Tensor = counted) -> Wanted:
            def wanted(acts: Tensor) -> Tensor:
                there = acts.clone()
                there[..., counted, i] = strength
                return there

            return wanted

        changes = desk.changes({sae: clamped(i, strength) for sae, i, strength in features})
        following = desk.plain.logits(ids, changes)[:, -1:].argmax(-1)
        if int(following) == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following], dim=1)
    written = tokenizer.decode(ids[0, desk.ids.shape[1] :])
    assert reply["steered"][0]["text"].split() == written.split()
    (control,) = reply["controls"]
    assert re.fullmatch(
        r"control: " + ", ".join(rf"feature \d+ of {re.escape(sae)}" for sae in desk.handles),
        control["label"],
    )


@one_family
async def test_units_are_each_saes_own(desk: Desk) -> None:
    own = [int(desk.acts(n, desk.read(n))[1:].amax(0).argmax()) for n in range(2)]
    alone = [
        await call(desk.state, "intervene", sae=sae, prompt=TEXT, edits=[{"feature": feature}])
        for sae, feature in zip(desk.handles, own, strict=True)
    ]
    edits = [{"sae": sae, "feature": i} for sae, i in zip(desk.handles, own, strict=True)]
    reply = await call(desk.state, "intervene", prompt=TEXT, edits=edits)
    assert reply["unit_values"] == [each["unit_value"] for each in alone]
    assert all(
        f"SAE at {hook}: {alone[0]['unit_source']}" in reply["unit_source"] for hook in HOOKS
    )


@pytest.fixture(params=["together", "apart"])
def typical(
    request: pytest.FixtureRequest, desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[Tensor]:
    """Each SAE's typical activations over its index, in a home where nothing else is indexed."""
    from saescope.features.index import index_features

    monkeypatch.setenv("SAESCOPE_HOME", str(tmp_path))
    loaded = [desk.state.saes[handle] for handle in desk.handles]
    found: dict[int, Tensor] = {}
    for places in [[0, 1]] if request.param == "together" else [[1], [0]]:
        saes = [loaded[n].sae for n in places]
        done = index_features(loaded[0].model, saes, n_tokens=2048, context_size=32)
        for n, index in zip(places, done, strict=True):
            assert index.typical is not None
            found[n] = index.typical
    return [found[0], found[1]]


@one_family
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_unit_is_typical_in_the_index_of_the_edits_own_sae(
    desk: Desk, typical: list[Tensor], order: tuple[int, int]
) -> None:
    """Both edits name one index of a feature, so that a mix-up of SAEs shows."""
    feature = int((typical[0].minimum(typical[1]) * (typical[0] - typical[1]).abs()).argmax())
    units = [float(typical[n][feature]) for n in order]
    assert min(units) > 0 and abs(units[0] / units[1] - 1) > 0.05
    edits = [{"sae": desk.handles[n], "feature": feature, "strength": 2.0} for n in order]
    asked = {"prompt": TEXT, "target": f"#{TARGET}"}
    reply = await call(desk.state, "intervene", edits=edits, **asked)
    assert reply["unit_values"] == pytest.approx(units, rel=1e-3)
    assert reply["unit_source"].count("indexed 99th percentile over 2,0") == 2
    added = {
        n: lambda acts, unit=unit: acts + 2.0 * unit * at_counted(desk, acts, feature)
        for n, unit in zip(order, units, strict=True)
    }
    close(reply["delta_logit"], desk.logits(added)[TARGET] - desk.logits()[TARGET])
    steered = await call(
        desk.state, "steer_generate", prompt=TEXT, features=edits, max_new_tokens=1
    )
    assert steered["unit_values"] == reply["unit_values"]


def at_counted(desk: Desk, acts: Tensor, feature: int) -> Tensor:
    there = torch.zeros_like(acts)
    there[..., desk.counted, feature] = 1
    return there


@one_family
async def test_labels_are_each_saes_own(desk: Desk) -> None:
    asked = {"saes": desk.handles, "text": TEXT, "k": 40}
    rows = (await call(desk.state, "top_features", **asked))["features"]
    named = next(row for row in rows if row["sae"] == desk.handles[1])["feature"]
    await call(desk.state, "label_feature", sae=desk.handles[1], feature=named, text="of the upper")
    for row in (await call(desk.state, "top_features", **asked))["features"]:
        ours = (row["sae"], row["feature"]) == (desk.handles[1], named)
        assert (row["label"] and row["label"]["text"]) == ("of the upper" if ours else None)
    edits = [{"sae": sae, "feature": named} for sae in desk.handles]
    reply = await call(desk.state, "intervene", prompt=TEXT, edits=edits)
    assert [row["label"] is None for row in reply["features"]] == [True, False]


@one_family
async def test_a_feature_whose_sae_is_named_nowhere_is_refused(desk: Desk) -> None:
    named = {"sae": desk.handles[0], "feature": 1}
    for tool, field in (("intervene", "edits"), ("steer_generate", "features")):
        asked: dict[str, Any] = {"prompt": TEXT, field: [named, {"feature": 2}]}
        refused = await refuse(desk.state, tool, **asked)
        assert (refused["code"], refused["field"]) == ("MISSING_ARGUMENT", "sae")
        unknown = await refuse(desk.state, tool, sae="zz", **asked)
        assert unknown["code"] == "SAE_NOT_LOADED" and "'zz'" in unknown["message"]


@one_family
async def test_provenance_names_every_sae(desk: Desk) -> None:
    hashes = [desk.state.saes[handle].weights_hash for handle in desk.handles]
    for response_format, digits in (("concise", 12), ("detailed", 64)):
        reply = await call(
            desk.state,
            "top_features",
            saes=desk.handles,
            text=TEXT,
            response_format=response_format,
        )
        said = reply["provenance"]
        assert said["sae"] is said["weights_hash"] is None
        assert said["saes"] == [
            {"sae": handle, "weights_hash": sha[:digits]}
            for handle, sha in zip(desk.handles, hashes, strict=True)
        ]


@one_family
async def test_a_list_of_one_sae_is_that_sae(desk: Desk) -> None:
    for tool, argument, rows in TAKING_SEVERAL:
        asked = {argument: TEXT}
        alone = await call(desk.state, tool, sae=desk.handles[1], **asked)
        listed = await call(desk.state, tool, saes=desk.handles[1:], **asked)
        assert listed == alone
        assert "sae" not in str(alone[rows]) and "by_sae" not in alone


@one_family
async def test_exactly_one_of_sae_and_saes_is_given(desk: Desk) -> None:
    one = desk.handles[0]
    for tool, argument, _ in TAKING_SEVERAL:
        asked: dict[str, Any] = {argument: TEXT}
        both = await refuse(desk.state, tool, sae=one, saes=desk.handles, **asked)
        assert (both["code"], both["field"]) == ("CONFLICTING_ARGUMENTS", "saes")
        neither = await refuse(desk.state, tool, **asked)
        assert (neither["code"], neither["field"]) == ("MISSING_ARGUMENT", "sae")
        twice = await refuse(desk.state, tool, saes=[one, one], **asked)
        assert twice["code"] == "DUPLICATE_SAE" and one in twice["message"]
        unknown = await refuse(desk.state, tool, saes=[one, "zz"], **asked)
        assert unknown["code"] == "SAE_NOT_LOADED" and "'zz'" in unknown["message"]


@one_family
async def test_saes_of_several_models_are_refused_by_name(
    desk: Desk, glass_dir: Path, tmp_path: Path
) -> None:
    roots = (desk.model.parent, glass_dir, tmp_path)
    state = AppState(Settings(read_roots=roots, offline=True))
    ours = await load(state, desk.saes[0], desk.model)
    other = await load(state, save_random_sae(tmp_path / "other"), glass_dir)
    for tool, asked in asked_of(ours, other):
        refused = await refuse(state, tool, **asked)
        assert refused["code"] == "DIFFERENT_MODELS"
        assert refused["field"] == ("saes" if "saes" in asked else "sae")
        assert ours in refused["message"] and other in refused["message"]
    state.close()


@one_family
async def test_two_saes_that_write_one_site_are_refused_by_name(desk: Desk, tmp_path: Path) -> None:
    state = AppState(Settings(read_roots=(desk.model.parent, tmp_path), offline=True))
    one = await load(state, desk.saes[1], desk.model)
    same = save_random_sae(tmp_path / "same", hook_name=HOOKS[1], d_in=32, seed=9)
    other = await load(state, same, desk.model)
    for tool, asked in asked_of(one, other):
        refused = await refuse(state, tool, **asked)
        assert refused["code"] == "TWO_SAES_ON_SITE" and HOOKS[1] in refused["message"]
        assert one in refused["message"] and other in refused["message"]
    state.close()


@one_family
async def test_no_sae_of_a_call_is_unloaded_while_it_runs(desk: Desk) -> None:
    state = AppState(Settings(read_roots=(desk.model.parent,), offline=True))
    handles = [await load(state, path, desk.model) for path in desk.saes]
    gone: list[str] = []

    async def unload() -> None:
        gone.extend((await state.unload(handles[1]))[1])

    async with anyio.create_task_group() as group, state.use_all(handles) as stack:
        group.start_soon(unload)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert not gone and [*state.saes] == handles
        assert [entry.handle for entry in stack.entries] == handles
    assert gone == handles[1:] and [*state.saes] == handles[:1]
    state.close()


@one_family
async def test_saes_that_disagree_about_bos_are_named(desk: Desk, tmp_path: Path) -> None:
    path = save_random_sae(tmp_path / "bos", hook_name=HOOKS[1], d_in=32)
    config = path / "cfg.json"
    config.write_text(config.read_text().replace('"prepend_bos": false', '"prepend_bos": true'))
    state = AppState(Settings(read_roots=(desk.model.parent, tmp_path), offline=True))
    without = await load(state, desk.saes[0], desk.model)
    wanting = await load(state, path, desk.model)
    assert state.saes[wanting].sae.cfg.metadata.prepend_bos is True
    for handles, bos in (([without, wanting], False), ([wanting, without], True)):
        reply = await call(state, "top_features", saes=handles, text=TEXT)
        assert reply["bos_prepended"] is bos
        assert any(f"read as {handles[0]} was trained" in warning for warning in reply["warnings"])
    state.close()


def run(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
@one_family
def test_the_command_line_takes_several_saes_too(desk: Desk) -> None:
    for path in desk.saes:
        run("load-sae", "--path", str(path), "--model", str(desk.model))
    several = [word for handle in desk.handles for word in ("--sae", handle)]
    for tool, argument, _ in TAKING_SEVERAL[1:]:
        done = run(tool.replace("_", "-"), *several, f"--{argument}", TEXT)
        asked = {"saes": desk.handles, argument: TEXT}
        assert done == anyio.run(partial(call, desk.state, tool, **asked))
    alone = run("top-features", "--sae", desk.handles[0], "--text", TEXT)
    assert alone == anyio.run(
        partial(call, desk.state, "top_features", sae=desk.handles[0], text=TEXT)
    )
    lower, upper = desk.handles
    words = ["--prompt", TEXT, "--edit", "3=0:ablate", "--edit", f"{upper}#5=2:clamp@2,3"]
    edits = [
        {"feature": 3, "strength": 0.0, "mode": "ablate"},
        {"sae": upper, "feature": 5, "strength": 2.0, "mode": "clamp", "positions": [2, 3]},
    ]
    asked = {"sae": lower, "prompt": TEXT, "edits": edits}
    assert run("intervene", "--sae", lower, *words) == anyio.run(
        partial(call, desk.state, "intervene", **asked)
    )
