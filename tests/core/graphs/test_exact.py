"""The algebra of graphs in float64, on every family: where nothing is rounded away, it is exact."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.core.conftest import BUILDERS
from tests.core.graphs.made import (
    CrossLayerMember,
    as_tokens,
    cross_layer,
    dense,
    in_float64,
    residual,
    traced,
    transcoders,
)
from tests.core.graphs.test_influence import explicit
from tests.core.graphs.test_rows import check_columns, constant, values

from saescope.graphs import trace_circuit
from saescope.graphs.members import HeldSet, held
from saescope.graphs.replacement import FINAL, Pass
from saescope.graphs.tape import Tape
from saescope.graphs.trace import Traced
from saescope.models import LanguageModel, load_model
from saescope.records.graph import GraphSettings

CLOSE = 1e-9
"""Of numbers of size 1 to 100."""


@pytest.fixture(scope="module", params=BUILDERS)
def model(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> LanguageModel:
    return load_model(folder_of(request.param), device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def graph(model: LanguageModel) -> Traced:
    """Of transcoders with skip connections."""
    return traced(model, held(model, in_float64(transcoders(model, skip=True))))


def test_nothing_in_a_graph_is_narrower_than_its_model(graph: Traced) -> None:
    rows = [rows for parts in graph.store.parts.values() for rows in parts]
    for each in rows:
        assert {each.weights.dtype, each.total.dtype, each.explained.dtype} == {torch.float64}
    assert {acts.values.dtype for acts in graph.clean.acts} == {torch.float64}
    assert {error.dtype for error in graph.clean.errors} == {torch.float64}


def test_an_edge_is_what_its_source_supplies(graph: Traced) -> None:
    check_columns(graph, atol=CLOSE)


def test_the_pass_is_a_straight_line_and_its_gradient_a_difference(graph: Traced) -> None:
    """Second differences are zero, first differences are the gradient times the step."""
    clean = graph.clean
    draw = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(x.shape, generator=draw, dtype=torch.float64)
        for name, x in clean.there.items()
    }
    at_rest, once, twice = (
        Pass(clean, 1, lambda name, there, step=step: there + step * noise[name]).read
        for step in (0.0, 1.0, 2.0)
    )
    rows = torch.randn(3, clean.model.d_model, generator=draw, dtype=torch.float64)
    positions, tape = torch.tensor([7, 4, 2]), Tape(clean)
    for reader, name in [(None, FINAL), *enumerate(clean.reads)]:
        bent = twice[name] - 2 * once[name] + at_rest[name]
        assert float(bent.abs().max()) < CLOSE, name
        want = ((once[name] - at_rest[name])[0, positions] * rows).sum(1)
        pulled = zip(tape.hook_names, tape.pull(reader, rows, positions), strict=True)
        got = [(g * noise[n].reshape(g[0].shape)).sum((1, 2)) for n, g in pulled if g is not None]
        assert torch.allclose(torch.stack(got).sum(0), want, rtol=0, atol=CLOSE), name


def test_the_edges_of_a_row_and_a_constant_make_the_pre_activation(graph: Traced) -> None:
    matrix = dense(graph)
    read = [*range(graph.store.columns.n_features), *range(graph.store.columns.n, len(matrix))]
    whole = values(graph, Pass(graph.clean, 1, lambda _, there: there))
    off = matrix[read].sum(1) + constant(graph) - whole
    assert float(off.abs().max()) < CLOSE


def test_influence_is_that_of_the_inverse_of_one_minus_a(graph: Traced) -> None:
    _, _, want = explicit(graph)
    assert torch.allclose(graph.influence.of, want[: graph.store.columns.n], rtol=0, atol=1e-12)


def test_every_kind_of_set_is_traced_and_proved_in_float64(model: LanguageModel) -> None:
    """Down to the reply: also that the model can be held is judged in its own dtype."""
    clt = cross_layer(model)
    members = tuple(
        CrossLayerMember(
            member.index,
            member.layer,
            in_float64([member.sae])[0],
            {to: rows.double() for to, rows in member.decoders.items()},
            member.hooks,
        )
        for member in clt.members
        if isinstance(member, CrossLayerMember)
    )
    sets = [
        HeldSet(members, "cross_layer"),  # pyright: ignore[reportArgumentType]
        held(model, in_float64(transcoders(model))),
    ]
    settings = GraphSettings(most_targets=2, n_controls=3, most_measured=20)
    for of in sets:
        found = trace_circuit(model, of, as_tokens(), settings=settings)
        assert found.proof and found.proof.linear_off < 1e-11
        assert not any("float" in warning for warning in found.warnings)
    found = trace_circuit(
        model, in_float64(residual(model, [0, 1])), as_tokens(), settings=settings
    )
    assert found.proof and found.proof.n_nodes
