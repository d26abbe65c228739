"""Attribution graphs: what a prediction rests on, through which features, each edge measured."""

from saescope.graphs.circuit import trace_circuit
from saescope.graphs.members import GraphMember, GraphMembers, held
from saescope.graphs.reading import read_graph
from saescope.records.graph import Graph, GraphSettings

__all__ = [
    "Graph",
    "GraphMember",
    "GraphMembers",
    "GraphSettings",
    "held",
    "read_graph",
    "trace_circuit",
]
