"""Claims against kept results: the level that they allow, computed; what is above it is lowered,
and words that say more are refused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from saescope.controls import ENOUGH, LEVEL
from saescope.errors import ArgumentError
from saescope.ledger.entry import KeptEntry
from saescope.ledger.findings import findings
from saescope.ledger.firing import tells
from saescope.ledger.found import NEUTRAL, same_words, tokens_in
from saescope.ledger.looks import Looked, unlisted
from saescope.ledger.naming import is_english
from saescope.ledger.sentences import measured, quantity, sentence
from saescope.ledger.telling import refusals
from saescope.ledger.words import is_of_logits, plain
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
MOST_TOLD = 3
"""Findings that are told in words beneath a claim."""
HASH_DIGITS = 8
NOT_ENGLISH = (
    "the words were not checked, as they do not seem to be English: its fields and numbers were"
)


def judge_claim(
    claim: FeatureClaim,
    named: Sequence[KeptEntry],
    *,
    others: Sequence[KeptEntry] = (),
    weights: str = "",
) -> ClaimVerdict:
    """What the results that a claim names allow one to say, and what other results of the ledger
    say against it. `weights` is the hash of the weights that its SAE has now: results of others do
    not count.

    Raises:
        ArgumentError: a field of the claim is not one of its values.
    """
    _check(claim)
    return _Case(claim, named, others, weights).verdict()


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
    now: str

    @cached_property
    def entries(self) -> list[KeptEntry]:
        """All results, each once, the named ones first."""
        return [*{entry.result_id: entry for entry in [*self.named, *self.others]}.values()]

    @cached_property
    def found(self) -> dict[str, list[FeatureTest]]:
        """What each result says of features of any SAE."""
        return {entry.result_id: findings(entry) for entry in self.entries}

    @cached_property
    def measure(self) -> str:
        """What effects of the claim are effects on."""
        if self.claim.against:
            return "difference"
        return "logit" if is_of_logits(self.claim.text) else "logprob"

    @cached_property
    def weights(self) -> frozenset[str]:
        """Hashes of the weights that the claim may be about: those of now, else those of the
        results that it names."""
        if self.now:
            return frozenset([self.now])
        told = (each for entry in self.named for each in self.found[entry.result_id])
        own = (each.weights for each in told if each.sae == self.claim.sae)
        return frozenset(filter(None, own))

    def _is_of_sae(self, found: FeatureTest) -> bool:
        return found.sae == self.claim.sae and (
            not found.weights or not self.weights or found.weights in self.weights
        )

    @cached_property
    def tests(self) -> list[FeatureTest]:
        """Every test of the SAE by changing the model."""
        return [
            each
            for told in self.found.values()
            for each in told
            if self._is_of_sae(each) and LEVELS.index(each.level) >= INTERVENED
        ]

    @cached_property
    def looked(self) -> Looked:
        about = [entry for entry in self.entries if self.claim.sae in entry.saes]
        beside = [each for entry in about for each in unlisted(entry)]
        return Looked(self.claim, self.tests, beside)

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

    def _hear(self, entry: KeptEntry) -> tuple[CheckedResult, FeatureTest | None]:
        claim, all_found = self.claim, self.found[entry.result_id]
        of_sae = (each for each in all_found if each.sae == claim.sae)
        own = [each for each in of_sae if each.feature == claim.feature]
        same = [each for each in own if self._is_of_sae(each)]
        fitting = [each for each in same if self._is_same_effect(each)]
        directed = [each for each in fitting if each.direction]
        if not directed:
            why = (
                sentence(fitting[0])
                if fitting
                else self._why_not(entry, all_found, own)
                if same or not own
                else f"it is of other weights ({own[0].weights[:HASH_DIGITS]}) under this handle"
            )
            return _not_counted(entry, why), None
        # The strongest test speaks; of equals one that is against the claim.
        found = max(
            directed, key=lambda each: (LEVELS.index(each.level), each.direction != claim.direction)
        )
        counts, why = self._counts(found)
        level = found.level if counts == "supports" else None
        return CheckedResult(result_id=entry.result_id, counts=counts, level=level, why=why), found

    def _is_same_effect(self, found: FeatureTest) -> bool:
        """Whether a finding is about what the claim is about."""
        claim = self.claim
        if claim.direction == "fires" or found.direction == "fires":
            return claim.direction == found.direction and _is_where(found, claim.effect)
        return found.measure == self.measure and (
            (tokens_in(found.effect), tokens_in(found.against))
            == (tokens_in(claim.effect), tokens_in(claim.against))
        )

    def _why_not(
        self, entry: KeptEntry, all_found: Sequence[FeatureTest], own: Sequence[FeatureTest]
    ) -> str:
        claim = self.claim
        if own:
            there = ", ".join(dict.fromkeys(measured(each) for each in own[:5]))
            said = repr(claim.effect) if claim.direction == "fires" else self._quantity
            return f"it measures {there}, not {said}"
        if claim.sae not in entry.saes:
            there = ", ".join(entry.saes) or "no SAE"
            return f"it is about {there}: an index means nothing in another SAE"
        if all_found:
            others = ", ".join(dict.fromkeys(str(each.feature) for each in all_found[:5]))
            return f"it tests feature {others}, not {claim.feature}"
        return "it tests no feature by itself: several changed at once, or none, or only a name"

    @property
    def _quantity(self) -> str:
        return quantity(self.claim.effect, self.claim.against, self.measure)

    def _counts(self, found: FeatureTest) -> tuple[str, str]:
        said = sentence(found)
        if found.direction != self.claim.direction:
            return "contradicts", said
        if found.beyond is False:
            return "fails", f"{said}, but no more than its controls"
        undone = self._undone(found)
        if undone:
            return "fails", f"{said}, but with controls no more than these ({undone.result_id})"
        return "supports", said

    def _undone(self, found: FeatureTest) -> FeatureTest | None:
        """The same test with controls, where these show that it is nothing."""
        same = (each for each in self.tests if each.beyond is False and _is_again(each, found))
        return next(same, None) if found.level == "intervened" else None

    @cached_property
    def sure(self) -> list[FeatureTest]:
        """Tests with controls that are more than the best of all that was looked at."""
        return [
            each
            for each in self.supports
            if each.level == "controlled" and not each.chosen and self._corrected(each) <= LEVEL
        ]

    def _corrected(self, found: FeatureTest) -> float:
        n = self.looked.before(found)
        # A rank among 19 cannot fall below 0.05, and what p there is passes by itself.
        return 0.0 if found.p is None or n == 1 else min(1.0, found.p * n)

    @cached_property
    def looks(self) -> Looks:
        """How often it was looked, and what that leaves of the best p."""
        related, looked = self.looked.related, self.looked
        known = [found for found in self.supports if found.p is not None]
        best = min(known, key=lambda each: (each.p or 0.0) * looked.before(each), default=None)
        n_counted = looked.before(best) if best else len(related)
        p = best.p if best else None
        return Looks(
            n_tests=max(len(related) + looked.n_unlisted, n_counted),
            n_counted=n_counted,
            n_features=len({found.feature for found in related}),
            n_prompts=len({same_words(each) for found in related for each in found.prompts}),
            n_settings=len({f.setting for f in related if f.feature == self.claim.feature}),
            p=p,
            corrected=None if p is None else min(1.0, p * n_counted),
        )

    @cached_property
    def allowed(self) -> tuple[int, list[str]]:
        """The level that the results allow, and why it is no higher than that."""
        best = max((LEVELS.index(each.level) for each in self.supports), default=NOTHING)
        if len({each.weights for each in self.supports if each.weights}) > 1:
            return NOTHING, ["the results are of different weights under one handle"]
        if self.claim.direction == "fires":
            return min(best, CORRELATES), []
        if best < CONTROLLED:
            return best, []
        if not self.sure:
            return INTERVENED, [self._why_unsure]
        opposed = [c.result_id for c, f in self.against if _is_opposed(c, f)]
        if opposed:
            return INTERVENED, [f"results with controls say otherwise: {', '.join(opposed)}"]
        if not self._is_replicated:
            return CONTROLLED, []
        if self._unlike:
            return CONTROLLED, [f"it is not so on other prompts: {', '.join(self._unlike)}"]
        return REPLICATED, []

    @property
    def _why_unsure(self) -> str:
        looks = self.looks
        chosen = next((each.chosen for each in self.supports if each.chosen), "")
        if chosen or looks.p is None:
            return chosen or "its controls are too few"
        return f"p is {looks.p:.2g}, and {looks.corrected:.2g} after {looks.n_counted} looks"

    @property
    def _is_picked(self) -> bool:
        """Whether what goes further than its controls is no more than the best of many looks."""
        return any(each.level == "controlled" for each in self.supports) and not self.sure

    @property
    def _is_replicated(self) -> bool:
        """On other prompts: two tests that share none, or one over six or more that agree."""
        apart = any(not _shared(one, other) for one in self.sure for other in self.sure)
        return apart or any(each.consistent for each in self.sure)

    @cached_property
    def _unlike(self) -> list[str]:
        """Tests on which it goes the other way, or on further prompts does nothing."""
        there = {same_words(each) for one in self.sure for each in one.prompts}
        return [
            checked.result_id
            for checked, found in self.against
            if LEVELS.index(found.level) >= INTERVENED
            and (checked.counts == "contradicts" or not {*map(same_words, found.prompts)} <= there)
        ]

    def verdict(self) -> ClaimVerdict:
        """The whole answer."""
        level, reasons = self.allowed
        refused = self._refusals(level, reasons)
        reasons = [*reasons, *self._unread]
        asked = LEVELS.index(self.claim.level)
        if asked > level >= 0:
            reasons = [f"{self.claim.level} was asked for; {LEVELS[level]} is shown", *reasons]
        verdict = "refused" if refused or level < 0 else "lowered" if asked > level else "stands"
        ids = {entry.result_id for entry in self.named}
        return ClaimVerdict(
            verdict=verdict,
            level=LEVELS[level] if level >= 0 else None,
            reasons=(*refused, *reasons),
            printed="" if verdict == "refused" else self._printed(min(level, asked)),
            checks=tuple(checked for checked, _ in self.heard),
            contradicting=tuple(c for c, _ in self.against if c.result_id not in ids),
            missing=tuple(self._missing(level)),
            looks=self.looks,
        )

    @property
    def _unread(self) -> list[str]:
        """What is said of a sentence whose words cannot be looked up."""
        return [] if is_english(plain(self.claim.text)) else [NOT_ENGLISH]

    def _refusals(self, level: int, reasons: Sequence[str]) -> list[str]:
        claim = self.claim
        ps = [self.looks.p, self.looks.corrected]
        ps += [each.p for each in self.supports if each.level == "controlled"]
        found = refusals(
            claim,
            self.supports,
            level=level,
            order=LEVELS,
            named=self.named,
            ps=[p for p in ps if p is not None],
        )
        if level >= 0:
            return found
        return found if reasons else [*found, "no result that it names supports it"]

    def _printed(self, level: int) -> str:
        claim = self.claim
        rests = self.sure if level >= CONTROLLED else self.supports
        rests = [each for each in rests if LEVELS.index(each.level) >= min(level, CONTROLLED)]
        told = "; ".join(sentence(each) for each in rests[:MOST_TOLD])
        more = len(rests) - MOST_TOLD
        told += f"; and {more} more such results" if more > 0 else ""
        weights = next((each.weights[:HASH_DIGITS] for each in rests if each.weights), "")
        of = f"{claim.sae}, weights {weights}" if weights else claim.sae
        looks = f" {self._looks_told}." if claim.direction != "fires" else ""
        what = f"{LEVELS[level]}{_over(rests)}, feature {claim.feature} of {of}"
        ids = ", ".join(each.result_id for each in rests)
        unread = "".join(f" Of the sentence {each}." for each in self._unread)
        return f"{claim.text}\n[{what}: {told}.{looks}{unread} Results {ids}]"

    @property
    def _looks_told(self) -> str:
        looks = self.looks
        n = f"{looks.n_tests} look{'s' * (looks.n_tests != 1)}"
        if looks.corrected is None or looks.n_counted < 2:
            return n
        return f"{n}; after the {looks.n_counted} that count p is {looks.corrected:.2g}"

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


def _is_where(found: FeatureTest, effect: str) -> bool:
    """Whether it was seen firing on what a claim names: a token as it is spelled, a label, or the
    word by which a contrast's texts differ."""
    match found.kind:
        case "token":
            return found.effect == effect
        case "texts":
            return tells(found, effect)
        case _:
            return found.effect.strip().casefold() == effect.strip().casefold()


def _is_again(one: FeatureTest, other: FeatureTest) -> bool:
    """Whether two tests do the same to the same feature and measure the same."""
    what = [
        (test.feature, test.effect, test.against, test.measure, test.setting)
        for test in (one, other)
    ]
    return what[0] == what[1] and {*one.prompts} == {*other.prompts}


def _shared(one: FeatureTest, other: FeatureTest) -> bool:
    """Whether two tests have a prompt in common, but for its capitals, spaces and marks."""
    return bool({*map(same_words, one.prompts)} & {*map(same_words, other.prompts)})


def _is_opposed(checked: CheckedResult, found: FeatureTest) -> bool:
    """Whether it says the opposite with controls that it is beyond."""
    return checked.counts == "contradicts" and found.level == "controlled" and bool(found.beyond)


def _not_counted(entry: KeptEntry, why: str) -> CheckedResult:
    return CheckedResult(result_id=entry.result_id, counts="not counted", level=None, why=why)


def _over(rests: Sequence[FeatureTest]) -> str:
    """The number of prompts, in words."""
    named = {same_words(each) for test in rests for each in test.prompts if each != NEUTRAL}
    n = len(named) + max((t.n_prompts for t in rests if NEUTRAL in t.prompts), default=0)
    return f" on {n} prompt{'s' * (n != 1)}" if n else ""
