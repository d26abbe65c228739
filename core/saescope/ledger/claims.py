"""Claims against kept results: the level that they allow, computed; what is above it is lowered,
and words that say more are refused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from saescope.errors import ArgumentError
from saescope.ledger.entry import KeptEntry
from saescope.ledger.findings import ENOUGH, LEVEL, findings
from saescope.ledger.words import other_features, told_direction, words_above
from saescope.records.claims import (
    CheckedResult,
    ClaimVerdict,
    FeatureClaim,
    FeatureTest,
    Looks,
    Missing,
)

LEVELS = ("seen", "correlates", "intervened", "controlled", "replicated")
"""From the weakest to the strongest."""
DIRECTIONS = ("raises", "lowers", "fires")
NOTHING = -1
SEEN, CORRELATES, INTERVENED, CONTROLLED, REPLICATED = range(len(LEVELS))


def judge_claim(
    claim: FeatureClaim, named: Sequence[KeptEntry], *, others: Sequence[KeptEntry] = ()
) -> ClaimVerdict:
    """What the results that a claim names allow one to say, and what other results of the ledger
    say against it.

    Raises:
        ArgumentError: a field of the claim is not one of its values.
    """
    _check(claim)
    return _Case(claim, named, others).verdict()


def _check(claim: FeatureClaim) -> None:
    for field, value, allowed in (
        ("level", claim.level, LEVELS),
        ("direction", claim.direction, DIRECTIONS),
    ):
        if value not in allowed:
            raise ArgumentError(
                f"{value!r} is no {field} of a claim.",
                field=field,
                got=value,
                allowed=allowed,
                hint=f"Use one of {', '.join(allowed)}.",
            )


@dataclass(frozen=True)
class _Case:
    """One claim with the results for and against it."""

    claim: FeatureClaim
    named: Sequence[KeptEntry]
    others: Sequence[KeptEntry]

    @cached_property
    def heard(self) -> list[tuple[CheckedResult, FeatureTest | None]]:
        """Each named result, and the finding by which it counts."""
        return [self._hear(entry) for entry in self.named]

    @cached_property
    def supports(self) -> list[FeatureTest]:
        return [found for checked, found in self.heard if found and checked.counts == "supports"]

    @cached_property
    def against(self) -> list[tuple[CheckedResult, FeatureTest]]:
        """What speaks against the claim, of all results, named or not."""
        ids = {entry.result_id for entry in self.named}
        more = [self._hear(entry) for entry in self.others if entry.result_id not in ids]
        return [
            (checked, found)
            for checked, found in [*self.heard, *more]
            if found and checked.counts in ("contradicts", "fails")
        ]

    @cached_property
    def looks(self) -> Looks:
        """Every test of this effect by changing the model, of any feature of the SAE."""
        ids = {entry.result_id: entry for entry in [*self.others, *self.named]}
        tests = {
            (found.feature, found.setting, found.prompts): found
            for entry in ids.values()
            for found in findings(entry)
            if found.sae == self.claim.sae
            and _same_effect(found, self.claim)
            and LEVELS.index(found.level) >= INTERVENED
        }
        own = [found for found in tests.values() if found.feature == self.claim.feature]
        known = [found for found in self.supports if found.p is not None]
        best = min(known, key=lambda found: found.p or 0.0, default=None)
        p = best.p if best else None
        # A feature that was chosen on some prompts is tested anew on others; one that was tried
        # again and again is not.
        n_counted = sum(
            found in own or bool(best and {*best.prompts} & {*found.prompts})
            for found in tests.values()
        )
        return Looks(
            n_tests=len(tests),
            n_counted=n_counted,
            n_features=len({found.feature for found in tests.values()}),
            n_prompts=len({prompt for found in tests.values() for prompt in found.prompts}),
            n_settings=len({found.setting for found in own}),
            p=p,
            corrected=None if p is None else min(1.0, p * max(1, n_counted)),
        )

    def _hear(self, entry: KeptEntry) -> tuple[CheckedResult, FeatureTest | None]:
        claim, all_found = self.claim, findings(entry)
        about = [each for each in all_found if each.sae == claim.sae]
        own = [each for each in about if each.feature == claim.feature]
        fitting = [each for each in own if _same_effect(each, claim)]
        if not fitting:
            return _not_counted(entry, self._why_not(entry, all_found, own)), None
        # The strongest test speaks; of equals one that is against the claim.
        found = max(
            fitting, key=lambda each: (LEVELS.index(each.level), each.direction != claim.direction)
        )
        counts, why = self._counts(found)
        return (
            CheckedResult(
                result_id=entry.result_id,
                counts=counts,
                level=found.level if counts == "supports" else None,
                why=why,
            ),
            found,
        )

    def _why_not(
        self, entry: KeptEntry, all_found: Sequence[FeatureTest], own: Sequence[FeatureTest]
    ) -> str:
        claim = self.claim
        if own:
            measured = ", ".join(sorted({_named_effect(each) for each in own}))
            return f"it measures {measured}, not {_effect_of(claim)}"
        if claim.sae not in entry.saes:
            there = ", ".join(entry.saes) or "no SAE"
            return f"it is about {there}: an index means nothing in another SAE"
        if all_found:
            others = ", ".join(dict.fromkeys(str(each.feature) for each in all_found[:5]))
            return f"it tests feature {others}, not {claim.feature}"
        return "it tests no feature by itself: several changed at once, or none, or only a name"

    def _counts(self, found: FeatureTest) -> tuple[str, str]:
        said = _sentence(found)
        if found.direction != self.claim.direction:
            return "contradicts", said
        if found.beyond is False:
            return "fails", f"{said}: no more than its controls"
        return "supports", said

    @cached_property
    def allowed(self) -> tuple[int, list[str]]:
        """The level that the results allow, and why it is no higher than that."""
        reasons = list[str]()
        best = max((LEVELS.index(each.level) for each in self.supports), default=NOTHING)
        if len({each.weights for each in self.supports}) > 1:
            return NOTHING, ["the results are of different weights under one handle"]
        if self.claim.direction == "fires":
            return min(best, CORRELATES), reasons
        if best == CONTROLLED and self._is_replicated():
            best = REPLICATED
        corrected = self.looks.corrected
        if best >= CONTROLLED and corrected is not None and self._is_picked:
            best = INTERVENED
            reasons.append(
                f"p is {self.looks.p:.2g}, and {corrected:.2g} after {self.looks.n_counted} looks"
            )
        opposed = [c.result_id for c, f in self.against if _is_opposed(c, f)]
        if best > INTERVENED and opposed:
            best = INTERVENED
            reasons.append(f"results with controls say otherwise: {', '.join(opposed)}")
        return best, reasons

    @property
    def _is_picked(self) -> bool:
        """Whether the best of several looks is no more than one expects of so many."""
        looks = self.looks
        return looks.n_counted > 1 and looks.corrected is not None and looks.corrected > LEVEL

    def _is_replicated(self) -> bool:
        """On other prompts: two tests that share none, or one over six or more that agree."""
        sure = [each for each in self.supports if each.level == "controlled" and each.beyond]
        apart = any(
            not {*one.prompts} & {*other.prompts} for one in sure for other in sure if one != other
        )
        return apart or any(each.consistent for each in sure)

    def verdict(self) -> ClaimVerdict:
        """The whole answer."""
        level, reasons = self.allowed
        refusals = self._refusals(level, reasons)
        asked = LEVELS.index(self.claim.level)
        if asked > level >= 0:
            reasons = [f"{self.claim.level} was asked for; {LEVELS[level]} is shown", *reasons]
        verdict = "refused" if refusals or level < 0 else "lowered" if asked > level else "stands"
        ids = {entry.result_id for entry in self.named}
        return ClaimVerdict(
            verdict=verdict,
            level=LEVELS[level] if level >= 0 else None,
            reasons=(*refusals, *reasons),
            printed="" if verdict == "refused" else self._printed(min(level, asked)),
            checks=tuple(checked for checked, _ in self.heard),
            contradicting=tuple(c for c, _ in self.against if c.result_id not in ids),
            missing=tuple(self._missing(level)),
            looks=self.looks,
        )

    def _refusals(self, level: int, reasons: Sequence[str]) -> list[str]:
        claim = self.claim
        found = [
            f"the text names feature {other}, the claim is about {claim.feature}"
            for other in other_features(claim.text, claim.feature)
        ]
        told = told_direction(claim.text)
        if claim.direction != "fires" and told and told != claim.direction:
            found.append(f"the text says that it {told} it, the claim says {claim.direction}")
        if level < 0:
            return [*found] if reasons else [*found, "no result that it names supports it"]
        above: dict[str, list[str]] = {}
        for word, needed in words_above(claim.text, level, LEVELS):
            above.setdefault(needed, []).append(repr(word))
        found += [
            f"words of the level {needed}, where the results allow {LEVELS[level]}: "
            f"{', '.join(dict.fromkeys(words))}"
            for needed, words in above.items()
        ]
        return found

    def _printed(self, level: int) -> str:
        claim = self.claim
        rests = [each for each in self.supports if LEVELS.index(each.level) >= min(level, 3)]
        n = len({prompt for each in rests for prompt in each.prompts})
        over = f" on {n} prompt{'s' * (n != 1)}" if n else ""
        tested = "; ".join(_sentence(each) for each in rests[:3])
        return (
            f"{claim.text}\n[{LEVELS[level]}{over}: feature {claim.feature} of {claim.sae}; "
            f"{tested}; {self.looks.n_tests} looks; "
            f"results {', '.join(each.result_id for each in rests)}]"
        )

    def _missing(self, level: int) -> Iterable[Missing]:
        if self.claim.direction == "fires":
            if level < CORRELATES:
                yield Missing(what="contrast", why="texts that lack it were not looked at")
            return
        if level < INTERVENED:
            yield Missing(what="intervention", why="the feature was not changed by itself")
        elif self._is_picked:
            yield Missing(what="fresh prompts", why="the best of several looks is no test")
        elif level < CONTROLLED:
            yield Missing(what="controls", why=f"fewer than {ENOUGH} random features beside it")
        elif level < REPLICATED:
            yield Missing(what="prompts", why="it was tested on one set of prompts")


def _same_effect(found: FeatureTest, claim: FeatureClaim) -> bool:
    """Whether a finding is about what a claim is about."""
    if claim.direction == "fires" or found.direction == "fires":
        own, said = (each.strip().casefold() for each in (found.effect, claim.effect))
        return claim.direction == found.direction == "fires" and own in ("", said)
    tokens = {*found.effect.split("|")} == {*claim.effect.split("|")}
    return tokens and found.against == claim.against


def _is_opposed(checked: CheckedResult, found: FeatureTest) -> bool:
    """Whether it says the opposite with controls that it is beyond."""
    return checked.counts == "contradicts" and found.level == "controlled" and bool(found.beyond)


def _not_counted(entry: KeptEntry, why: str) -> CheckedResult:
    return CheckedResult(result_id=entry.result_id, counts="not counted", level=None, why=why)


def _effect_of(claim: FeatureClaim) -> str:
    return repr(claim.effect) + (f" against {claim.against!r}" if claim.against else "")


def _named_effect(found: FeatureTest) -> str:
    if found.direction == "fires":
        return f"where it fires ({found.effect!r})" if found.effect else "on which texts it fires"
    return repr(found.effect) + (f" against {found.against!r}" if found.against else "")


def _sentence(found: FeatureTest) -> str:
    if found.direction == "fires":
        return f"it fires on {found.effect!r}" if found.effect else "it fires on such texts"
    size = "" if found.size is None else f" by {found.size:+.3g}"
    p = "" if found.p is None else f", p {found.p:.2g}"
    beside = f" beside {found.n_controls} controls{p}" if found.n_controls >= ENOUGH else ""
    how = f"{found.setting} " if found.setting else ""
    return (
        f"{how}moves {_named_effect(found)}{size}{beside} over {max(1, found.n_prompts)} "
        f"prompt{'s' * (found.n_prompts > 1)}: it {found.direction} it"
    )
