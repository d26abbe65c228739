"""Judge one answer to one wish on its hidden texts and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from agent_evals.scientist import scores
from agent_evals.scientist.lab import Lab, Rated
from agent_evals.scientist.scores import Seen, Steered, Tried
from agent_evals.scientist.wish import Ground, Hidden, Wish


@dataclass(frozen=True)
class Judged:
    """An answer with everything that was measured of it; null scores where no feature was named."""

    wish: str
    feature: int | None
    exact: bool | None
    """The right feature, or none where none is good; null where the truth is not known."""
    kind: str = ""
    """What the feature was planted as."""
    strength: float | None = None
    seen: Seen | None = None
    steered: Steered | None = None
    rank: float | None = None
    activation: float = 0.0
    push: float = 0.0
    """The Steering formula with the stand-in's ratings, 0 to 100."""

    @property
    def causal(self) -> bool:
        return bool(self.seen and self.steered and scores.is_causal(self.seen, self.steered))

    @property
    def usable(self) -> bool:
        return bool(self.seen and self.steered and scores.is_usable(self.seen, self.steered))


def judge_answer(lab: Lab, ground: Ground, wish: Wish, feature: int | None) -> Judged:
    """Everything that the protocol measures of one submitted feature."""
    hidden = ground.hidden[wish.name]
    exact = feature == hidden.expert if ground.knows else None
    if feature is None:
        return Judged(wish.name, None, exact)
    seen, expert_rank = watch(lab, hidden, feature)
    multiple, steered = steer(lab, hidden, wish.tokens, feature)
    return Judged(
        wish.name,
        feature,
        exact,
        kind=ground.kinds.get(feature, ""),
        strength=None if multiple is None else multiple * hidden.strength,
        seen=seen,
        steered=steered,
        rank=expert_rank and scores.rank_score(seen.rank, expert_rank),
        activation=scores.activation_score(seen.area),
        push=scores.steering_score(steered.effect),
    )


def watch(lab: Lab, hidden: Hidden, feature: int) -> tuple[Seen, float | None]:
    """What the feature does on the hidden texts, and the mean rank of the right one."""
    sides = [lab.pooled(side) for side in hidden.examples]
    positives, hard, neutral = ([float(value) for value in side[:, feature]] for side in sides)

    def rank_of(one: int) -> float:
        return mean(scores.dictionary_rank(row[one], row) for row in sides[0].tolist())

    seen = Seen(
        rank=rank_of(feature),
        area=scores.area_under(positives, [*hard, *neutral]),
        active=mean(value > 0 for value in positives),
        hard_ratio=mean(hard) / mean(positives) if any(positives) else 1.0,
    )
    return seen, None if hidden.expert is None else rank_of(hidden.expert)


def steer(
    lab: Lab, hidden: Hidden, tokens: Sequence[str], feature: int
) -> tuple[float | None, Steered]:
    """The strength that the calibration prompts choose, in reference strengths, and what comes of
    it on the others; of the right feature the reference strength is taken. Null where every
    strength breaks the texts: judged at the smallest then."""
    ids, unit = lab.tokens(tokens), lab.direction(feature) * hidden.strength
    chosen = 1.0 if feature == hidden.expert else calibrate(lab, hidden, ids, feature)
    vector = unit * (chosen or min(scores.LOW_MULTIPLES))
    random = lab.random_direction() * vector.norm()
    rated, beside = lab.rate([vector, random], hidden.evaluation, ids)
    return chosen, summed(rated, beside)


def calibrate(lab: Lab, hidden: Hidden, ids: Sequence[int], feature: int) -> float | None:
    """The best multiple of the reference strength on the calibration prompts."""
    unit = lab.direction(feature) * hidden.strength
    for multiples in (scores.MULTIPLES, scores.LOW_MULTIPLES):
        rated = lab.rate([unit * multiple for multiple in multiples], hidden.calibration, ids)
        tried = [_tried(multiple, rows) for multiple, rows in zip(multiples, rated, strict=True)]
        if best := scores.pick(tried):
            return best.multiple
    return None


def _tried(multiple: float, rated: Sequence[Rated]) -> Tried:
    points = [scores.nats_rating(each.rise) for each in rated]
    whole = mean(not each.degenerate for each in rated)
    return Tried(multiple, whole, mean(one >= 2 for one in points), mean(points))


def summed(rated: Sequence[Rated], random: Sequence[Rated]) -> Steered:
    """Ratings of the steered texts beside those of a random direction of the same norm; without
    steering nothing rises."""
    points = [scores.nats_rating(each.rise) for each in rated]
    good = [
        point >= 2 and scores.kept_rating(each.kl) >= 2 and not each.degenerate
        for point, each in zip(points, rated, strict=True)
    ]
    return Steered(
        n_prompts=len(rated),
        feature=mean(points),
        baseline=0.0,
        random=mean(scores.nats_rating(each.rise) for each in random) if random else 0.0,
        success=mean(point >= 2 for point in points),
        usable=mean(good),
        whole=mean(not each.degenerate for each in rated),
    )
