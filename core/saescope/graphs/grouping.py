"""Supernodes: features that act alike are found and named, or grouped by hand.

Found groups join features whose decoder rows, whose edges in and out, whose labels and whose
positions are alike; two that one path joins through others stay apart, so that a merged graph goes
in no circle.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import ArgumentError
from saescope.names import nearest
from saescope.records.graph import Graph, GraphGroup, GraphNode
from saescope.untrusted import clean_line

ALIKE = 0.5
"""The least mean likeness of two groups that are joined, unless told otherwise."""
MOST_NODES = 400
"""Features that are compared, the most influential: others stay alone."""
_WRITES, _PROFILE, _LABEL, _PLACE = 0.35, 0.35, 0.15, 0.15
"""How much each kind of likeness counts; one that is unknown leaves its part to the others."""
_NEAR_LAYERS = 4
"""Features further apart than so many layers have nothing of the likeness by place."""
_NAME_CHARS = 60

WriteRows = Callable[[Sequence[GraphNode]], Float[Tensor, "n d"]]
"""What features write: a row for each node, all of one width."""


def find_groups(
    graph: Graph,
    *,
    write_rows: WriteRows | None = None,
    labels: Mapping[str, str] | None = None,
    promoted: Mapping[str, Sequence[str]] | None = None,
    alike: float = ALIKE,
) -> list[GraphGroup]:
    """Groups of two features or more, the most influential first; the same for the same graph.

    `labels` and `promoted` (tokens that a feature promotes, strongest first) are by id of node;
    they count in the likeness, and name the groups.
    """
    nodes = [node for node in graph.nodes if node.kind == "feature"]
    nodes = sorted(nodes, key=lambda node: (-node.influence, node.id))[:MOST_NODES]
    if len(nodes) < 2:
        return []
    likeness = _likeness(graph, nodes, write_rows, labels or {}, promoted or {})
    joined = _join(graph, nodes, likeness, alike)
    found = [[nodes[i] for i in sorted(group)] for group in joined if len(group) > 1]
    found.sort(key=lambda group: (-sum(node.influence for node in group), group[0].id))
    taken: set[str] = {node.id for node in graph.nodes}
    return [
        GraphGroup(
            name=_free(name_of(group, labels=labels, promoted=promoted), taken),
            nodes=[node.id for node in group],
            by_hand=False,
        )
        for group in found
    ]


def name_of(
    nodes: Sequence[GraphNode],
    *,
    labels: Mapping[str, str] | None = None,
    promoted: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The label that most of these nodes bear, else the tokens that most of them promote, else
    where they are."""
    said = Counter(
        clean_line(label, _NAME_CHARS)
        for node in nodes
        if (label := (labels or {}).get(node.id, "").strip())
    )
    if said:
        best, times = max(said.items(), key=lambda item: (item[1], -len(item[0]), item[0]))
        return _plain(best if times > 1 or len(said) == 1 else f"{best} and the like")
    tokens = Counter(
        clean_line(token, 20) or "\u2423"
        for node in nodes
        for token in (promoted or {}).get(node.id, ())[:5]
    )
    if tokens:
        top = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))[:2]
        return _plain(f"promotes {', '.join(token for token, _ in top)}")
    layers = sorted({node.layer for node in nodes if node.layer is not None})
    span = f"s {layers[0]}-{layers[-1]}" if len(layers) > 1 else f" {layers[0] if layers else 0}"
    where = clean_line(nodes[0].token, 20) or "\u2423"
    return _plain(f"layer{span} at \u201c{where}\u201d")


def parse_groups(graph: Graph, lines: Sequence[str], *, field: str = "groups") -> list[GraphGroup]:
    """Groups by hand, each `"name: id id"`.

    Raises:
        ArgumentError: GRAPH_GROUP_INVALID: no name, no nodes, or one name or node twice;
            GRAPH_NODE_UNKNOWN, with the nearest ids.
    """
    known, groups = {node.id: node for node in graph.nodes}, list[GraphGroup]()
    owner: dict[str, str] = {}
    for line in lines:
        name, colon, rest = line.partition(":")
        name, ids = clean_line(name, _NAME_CHARS), rest.replace(",", " ").split()
        if not (colon and name and ids):
            raise _bad_group(line, "It has no name, or no nodes", field)
        if name in known or any(group.name == name for group in groups):
            raise _bad_group(line, f"The name {name!r} is taken", field)
        for each in ids:
            if each not in known:
                raise _unknown(each, known, field)
            if known[each].kind == "logit":
                raise _bad_group(line, f"{each} is a target, which stands alone", field)
            if each in owner:
                raise _bad_group(line, f"{each} is in {owner[each]!r} already", field)
            owner[each] = name
        groups.append(GraphGroup(name=name, nodes=ids, by_hand=True))
    return groups


def _likeness(
    graph: Graph,
    nodes: Sequence[GraphNode],
    write_rows: WriteRows | None,
    labels: Mapping[str, str],
    promoted: Mapping[str, Sequence[str]],
) -> Float[Tensor, "n n"]:
    """How alike each two nodes are, at most 1: a weighted mean over what is known of both."""
    profile = _profiles(graph, nodes)
    parts = [(_PROFILE, profile, torch.ones_like(profile)), (_PLACE, *_places(nodes))]
    if write_rows is not None:
        cosine = _cosines(write_rows(nodes).double())
        parts.append((_WRITES, cosine, torch.ones_like(cosine)))
    parts.append((_LABEL, *_words_alike([_words(node, labels, promoted) for node in nodes])))
    total = sum(weight * likeness * known for weight, likeness, known in parts)
    known = sum(weight * known for weight, _, known in parts)
    return torch.as_tensor(total / known)


def _profiles(graph: Graph, nodes: Sequence[GraphNode]) -> Float[Tensor, "n n"]:
    """The mean cosine of edges in and of edges out, as vectors over all nodes; every node's edges
    are shares of its own, so that its scale does not count."""
    row = {node.id: i for i, node in enumerate(nodes)}
    column = {node.id: i for i, node in enumerate(graph.nodes)}
    into = torch.zeros(len(nodes), len(column), dtype=torch.float64)
    out = torch.zeros_like(into)
    entering: dict[str, float] = defaultdict(float)
    for edge in graph.edges:
        entering[edge.target] += abs(edge.weight)
    for edge in graph.edges:
        if edge.target in row:
            into[row[edge.target], column[edge.source]] = edge.weight
        if edge.source in row and entering[edge.target]:
            # as a share of what enters the target: targets have scales of their own
            share = edge.weight / entering[edge.target]
            out[row[edge.source], column[edge.target]] = share
    return (_cosines(into) + _cosines(out)) / 2


def _places(nodes: Sequence[GraphNode]) -> tuple[Tensor, Tensor]:
    """Likeness by place: 1 at one position and layer, less for each layer between."""
    pos = torch.tensor([node.pos for node in nodes], dtype=torch.float64)
    layer = torch.tensor([node.layer or 0 for node in nodes], dtype=torch.float64)
    near = (1 - (layer[:, None] - layer).abs() / _NEAR_LAYERS).clamp(min=0)
    likeness = near * (pos[:, None] == pos)
    return likeness, torch.ones_like(likeness)


def _words(
    node: GraphNode, labels: Mapping[str, str], promoted: Mapping[str, Sequence[str]]
) -> set[str]:
    words = {word for word in labels.get(node.id, "").lower().split() if len(word) > 2}
    return words | {token.strip().lower() for token in promoted.get(node.id, ())[:5]} - {""}


def _words_alike(words: Sequence[set[str]]) -> tuple[Tensor, Tensor]:
    """The share of words that two have in common, and for which pairs both have any."""
    place = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    has = torch.zeros(len(words), max(1, len(place)), dtype=torch.float64)
    for i, own in enumerate(words):
        for word in own:
            has[i, place[word]] = 1
    both, n = has @ has.T, has.sum(1)
    either = n[:, None] + n - both
    known = ((n[:, None] > 0) & (n > 0)).double()
    return both / either.clamp(min=1), known


def _cosines(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit @ unit.T


def _join(
    graph: Graph, nodes: Sequence[GraphNode], likeness: Tensor, alike: float
) -> list[list[int]]:
    """Average linkage: the two groups that are most alike are joined, until none are enough."""
    reach = _Reach(graph, nodes)
    between = likeness.clone().fill_diagonal_(-torch.inf)
    members = [[i] for i in range(len(nodes))]
    while True:
        best = int(between.argmax())
        a, b = divmod(best, len(nodes))
        if not float(between[a, b]) >= alike:
            return [group for group in members if group]
        a, b = min(a, b), max(a, b)
        if not reach.may_join(members[a] + members[b]):
            between[a, b] = between[b, a] = -torch.inf
            continue
        n_a, n_b = len(members[a]), len(members[b])
        mean = (n_a * between[a] + n_b * between[b]) / (n_a + n_b)
        between[a] = between[:, a] = mean
        between[b] = between[:, b] = -torch.inf
        between[a, a] = -torch.inf
        members[a], members[b] = members[a] + members[b], []
        reach.join(members[a])


class _Reach:
    """Which nodes supply which, with the groups joined so far as one node each."""

    def __init__(self, graph: Graph, nodes: Sequence[GraphNode]) -> None:
        self.names = [node.id for node in nodes]
        self.below: dict[str, set[str]] = defaultdict(set)
        for edge in graph.edges:
            self.below[edge.target].add(edge.source)
        self.group = {node.id: node.id for node in graph.nodes}
        """The group of each node, named by one of its members; its own id if it is alone."""
        self.inside = {node.id: [node.id] for node in graph.nodes}

    def may_join(self, members: Sequence[int]) -> bool:
        """Whether no path leaves these nodes and comes back to them."""
        wanted = {self.group[self.names[i]] for i in members}
        queue = [source for group in wanted for source in self._sources(group) - wanted]
        seen = set(queue)
        while queue:
            for source in self._sources(queue.pop()):
                if source in wanted:
                    return False
                if source not in seen:
                    seen.add(source)
                    queue.append(source)
        return True

    def join(self, members: Sequence[int]) -> None:
        """Make one group of these nodes."""
        names = [self.names[i] for i in members]
        for name in names:
            self.group[name] = names[0]
        self.inside[names[0]] = names

    def _sources(self, group: str) -> set[str]:
        found = {self.group[s] for name in self.inside[group] for s in self.below.get(name, ())}
        return found - {group}


def _free(name: str, taken: set[str]) -> str:
    n, free = 2, name
    while free in taken:
        free, n = f"{name} {n}", n + 1
    taken.add(free)
    return free


def _plain(name: str) -> str:
    """A name that `parse_groups` reads: without a colon."""
    return " ".join(name.replace(":", " ").split())[:_NAME_CHARS].strip()


def _bad_group(line: str, why: str, field: str) -> ArgumentError:
    return ArgumentError(
        f"{clean_line(line, 80)!r} is no group. {why}.",
        code="GRAPH_GROUP_INVALID",
        field=field,
        got=clean_line(line, 80),
        allowed='"name: id id", each node in one group',
        hint='Write it like "animals: f3.17@5 f4.2@5", with ids of the graph.',
    )


def _unknown(name: str, known: Mapping[str, GraphNode], field: str) -> ArgumentError:
    close = nearest(name, known) or list(known)[:3]
    return ArgumentError(
        f"{name[:60]!r} is no node of this graph.",
        code="GRAPH_NODE_UNKNOWN",
        field=field,
        got=name[:60],
        allowed=f"the nodes that are kept, such as {', '.join(close)}",
        hint=f"Name {close[0]}, or leave groups out to have them found.",
    )
