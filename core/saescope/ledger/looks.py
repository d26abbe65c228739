"""How often somebody looked before a test was named: every test, strength and candidate counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saescope.ledger.changed import the_edit
from saescope.ledger.entry import KeptEntry
from saescope.ledger.found import NEUTRAL, same_words, tokens_in
from saescope.records.claims import FeatureClaim, FeatureTest


@dataclass(frozen=True, kw_only=True)
class Unlisted:
    """Looks of a result that are no findings of it: candidates that it does not list, strengths
    that it did not choose."""

    result_id: str
    features: frozenset[int]
    """Those that it may have been that were chosen by it."""
    prompts: tuple[str, ...]
    n: int
    settled: bool
    """The result allows for these itself: by its typical strength, or by a test on other
    prompts."""


def unlisted(entry: KeptEntry) -> list[Unlisted]:
    """What a result looked at beside its findings."""
    read = _READERS.get(entry.tool)
    found = read(entry) if read else None
    return [found] if found else []


def _pairs(entry: KeptEntry) -> Unlisted:
    """Pairs of feature and position that were chosen from by their estimates."""
    rows, given = entry.document["features"], entry.arguments
    n, prompt = entry.document["total"] - len(rows), given.get("prompt") or given["a"]
    return _unlisted(entry, _features(rows), (prompt,), n, settled=False)


def _nodes(entry: KeptEntry) -> Unlisted | None:
    """Nodes that were ablated and are not shown."""
    done = entry.document
    if not done.get("proof"):
        return None
    nodes = [node for node in done["nodes"] if node.get("lost") is not None]
    features = _features([node for node in nodes if node["feature"] is not None])
    n, prompts = done["proof"]["n_nodes"] - len(nodes), (entry.arguments["prompt"],)
    return _unlisted(entry, features, prompts, n, settled=False)


def _candidates(entry: KeptEntry) -> Unlisted | None:
    """Features that were pushed and are not listed."""
    rows, search = entry.document["features"], entry.document.get("search")
    if not search:
        return None
    n = search["n_measured"] - sum(row.get("causes") is not None for row in rows)
    prompts = tuple(entry.arguments["prompts"]) or (NEUTRAL,)
    return _unlisted(entry, _features(rows), prompts, n, settled=True)


def _strengths(entry: KeptEntry) -> Unlisted | None:
    """Strengths of a table, or those that a search tried on other prompts than it tells of."""
    edit, given, done = the_edit(entry), entry.arguments, entry.document
    if edit is None:
        return None
    n = done["n_trials"] if "n_trials" in done else len(done.get("table") or []) - 1
    prompts = tuple(given["prompts"] or filter(None, [given.get("prompt")])) or (NEUTRAL,)
    return _unlisted(entry, _features([edit]), prompts, n or 0, settled=True)


def _features(rows: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    return frozenset(row["feature"] for row in rows)


def _unlisted(
    entry: KeptEntry, features: frozenset[int], prompts: tuple[str, ...], n: int, *, settled: bool
) -> Unlisted:
    return Unlisted(
        result_id=entry.result_id,
        features=features,
        prompts=prompts,
        n=max(0, n),
        settled=settled,
    )


_READERS: Mapping[str, Callable[[KeptEntry], Unlisted | None]] = {
    "attribute_logit": _pairs,
    "compare_prompts": _pairs,
    "find_features": _candidates,
    "steer_generate": _strengths,
    "steer_search": _strengths,
    "trace_circuit": _nodes,
}


@dataclass(frozen=True)
class Looked:
    """Every look that bears on a claim."""

    claim: FeatureClaim
    tests: Sequence[FeatureTest]
    """All tests of the SAE by changing it, of any effect."""
    unlisted: Sequence[Unlisted]

    def before(self, best: FeatureTest) -> int:
        """The looks that a test pays for, itself included: those of its feature at this effect, and
        those on the same prompts, of other features, or of this one at other tokens. A feature, a
        strength or a token that was chosen on some prompts is tested anew on others."""
        n_tests = sum(
            (self._is_own(test) and self._is_effect(test))
            or (_share_prompts(test.prompts, best.prompts) and self._bears(test))
            for test in self.tests
            if (test.result_id, test.feature) != (best.result_id, best.feature)
        )
        n_unlisted = sum(
            each.n
            for each in self.unlisted
            if self.claim.feature in each.features
            and _share_prompts(each.prompts, best.prompts)
            and not (each.settled and each.result_id == best.result_id)
        )
        return 1 + n_tests + n_unlisted

    @property
    def related(self) -> list[FeatureTest]:
        """Tests that bear on the claim, on whatever prompts."""
        return [test for test in self.tests if self._bears(test)]

    @property
    def n_unlisted(self) -> int:
        """Candidates and strengths of the results that chose this feature, or tried it."""
        return sum(each.n for each in self.unlisted if self.claim.feature in each.features)

    def _bears(self, test: FeatureTest) -> bool:
        return self._is_own(test) or self._is_effect(test)

    def _is_own(self, test: FeatureTest) -> bool:
        return test.feature == self.claim.feature

    def _is_effect(self, test: FeatureTest) -> bool:
        """Whether it is an effect on one of these tokens, however these are spelled."""
        return bool(_spelled(test.effect) & _spelled(self.claim.effect))


def _spelled(effect: str) -> set[str]:
    return {token.strip().casefold() or token for token in tokens_in(effect)}


def _share_prompts(one: Sequence[str], other: Sequence[str]) -> bool:
    return bool({*map(same_words, one)} & {*map(same_words, other)})
