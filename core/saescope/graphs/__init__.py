"""Attribution graphs: what a prediction rests on, through which features, each edge measured."""

from saescope.graphs.circuit import trace_circuit
from saescope.graphs.members import Member, Members, held
from saescope.records.graph import Graph, GraphSettings

__all__ = ["Graph", "GraphSettings", "Member", "Members", "held", "trace_circuit"]
