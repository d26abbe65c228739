"""The benchmark of agents that look for features: its formulas against the published numbers, its
planted worlds against what they promise."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from agent_evals.play import Desk
from agent_evals.scientist import scores
from agent_evals.scientist.embedded import embedded_ground
from agent_evals.scientist.evaluate import judge_answer
from agent_evals.scientist.lab import Lab, lab_of, log_mass
from agent_evals.scientist.live import asked_for, live, named
from agent_evals.scientist.players import probe
from agent_evals.scientist.published import published_grounds
from agent_evals.scientist.run import arguments, as_table, play_all, summary
from agent_evals.scientist.scores import Seen, Steered, Tried
from agent_evals.scientist.texts import FRAMES, WORDS, examples
from agent_evals.scientist.wish import Answer, Ground, Wish
from agent_evals.scientist.world import make_world, topics_of
from agent_evals.task import Task
from agent_evals.transcript import Transcript
from agent_evals.truth import Bench

# The numbers of the public repository's own tests, data and results.


def test_the_published_example_scores_as_published() -> None:
    assert scores.rank_score(10, 10) == 100
    assert scores.rank_score(5, 10) == pytest.approx(400 / 3)
    assert scores.activation_score(0.9) == pytest.approx(80)
    assert scores.steering_score(scores.target_effect(3, 1, 0.5)) == 50
    assert scores.overall(100, 80, 50) == pytest.approx(230 / 3)


def test_the_stronger_control_counts_and_what_is_worse_scores_nothing() -> None:
    assert scores.steering_score(scores.target_effect(3, 1, 2)) == 25
    assert scores.target_effect(0, 1, 0.5) == -0.25
    assert scores.steering_score(-0.25) == 0 == scores.activation_score(0.2)


@pytest.mark.parametrize("rank", [0, -1, float("nan")])
def test_a_rank_that_is_none_is_refused(rank: float) -> None:
    with pytest.raises(ValueError, match="ranks begin at 1"):
        scores.rank_score(rank, 10)


@pytest.mark.parametrize("area", [-0.1, 1.1, float("nan")])
def test_an_area_that_is_none_is_refused(area: float) -> None:
    with pytest.raises(ValueError, match="an area"):
        scores.activation_score(area)


@pytest.mark.parametrize("rating", [-1, 5, float("nan")])
def test_a_rating_that_is_none_is_refused(rating: float) -> None:
    with pytest.raises(ValueError, match="a rating"):
        scores.target_effect(rating, 1, 1)


def test_a_silent_feature_has_the_worst_rank_and_equals_share_the_better_one() -> None:
    row = [0.0, 4.0, 2.0, 2.0, 0.0, 1.0, 0.0, 0.0]
    assert [scores.dictionary_rank(row[i], row) for i in (0, 1, 2, 3, 5)] == [8, 1, 2, 2, 4]


def test_an_area_counts_ties_half() -> None:
    assert scores.area_under([4, 2], [0, 0]) == 1
    assert scores.area_under([1, 0], [0, 1]) == 0.5
    with pytest.raises(ValueError, match="both sides"):
        scores.area_under([], [1.0])


class Published(NamedTuple):
    """A published row: area, share of positives it fires on, ratio on hard negatives; ratings and
    shares; and what it passed."""

    name: str
    seen: tuple[float, float, float]
    steered: tuple[float, float, float, float]
    effect: float
    passed: tuple[bool, bool]


PUBLISHED = [
    Published("cat", (0.9958, 1, 0.1413), (2.375, 0.7, 0.6, 0.975), 0.59375, (True, True)),
    Published("cat again", (0.9958, 1, 0.1413), (1.75, 0.65, 0.475, 0.9), 0.4375, (False, False)),
    Published("earnings", (1, 1, 0.1), (3.075, 0.975, 0.275, 0.725), 0.76875, (True, False)),
    Published("82885", (1, 1, 0), (2.4, 0.85, 0.175, 0.425), 0.6, (False, False)),
    Published("59750", (0.921875, 1, 0), (2.225, 0.725, 0.325, 0.6), 0.55625, (False, False)),
    Published("48097", (1, 1, 0), (1.8, 0.6, 0.05, 0.05), 0.45, (False, False)),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_the_gates_pass_what_was_published_as_passed(row: Published) -> None:
    area, active, hard_ratio = row.seen
    rating, success, usable, whole = row.steered
    seen = Seen(rank=1, area=area, active=active, hard_ratio=hard_ratio)
    steered = Steered(
        20, feature=rating, baseline=0, random=0, success=success, usable=usable, whole=whole
    )
    assert steered.effect == pytest.approx(row.effect)
    assert (scores.is_causal(seen, steered), scores.is_usable(seen, steered)) == row.passed


def test_each_condition_of_the_gates_counts() -> None:
    seen = Seen(rank=3, area=0.99, active=1.0, hard_ratio=0.297)
    good = Steered(
        20, feature=3.2, baseline=0.4, random=0.8, success=0.75, usable=0.7, whole=0.95,
        agreement=0.85,
    )  # fmt: skip
    assert scores.is_usable(seen, good)
    for change in ({"area": 0.949}, {"active": 0.79}, {"hard_ratio": 0.301}):
        assert not scores.is_causal(seen._replace(**change), good)
    for change in (
        {"n_prompts": 19},
        {"feature": 1.0},
        {"success": 0.69},
        {"whole": 0.49},
        {"agreement": 0.79},
    ):
        assert not scores.is_causal(seen, good._replace(**change))
    for change in ({"usable": 0.45}, {"whole": 0.89}):
        changed = good._replace(**change)
        assert scores.is_causal(seen, changed) and not scores.is_usable(seen, changed)


def test_a_strength_is_picked_by_success_then_rating_then_the_smaller() -> None:
    broken = Tried(1.5, whole=0.8, success=1.0, rating=4.0)
    tried = [Tried(0.5, 1, 0.4, 1.0), Tried(1.0, 0.9, 0.8, 2.0), Tried(1.25, 1, 0.8, 2.0), broken]
    assert scores.pick(tried) == tried[1]
    assert scores.pick([*tried, Tried(0.75, 1, 0.8, 2.5)]) == Tried(0.75, 1, 0.8, 2.5)
    assert scores.pick([broken]) is None


# The stand-in for the judge.


def test_a_nat_is_a_point_and_four_are_all() -> None:
    assert [scores.nats_rating(rise) for rise in (-1, 0, 2.5, 9)] == [0, 0, 2.5, 4]
    assert [scores.kept_rating(kl) for kl in (0, 1.5, 9)] == [4, 2.5, 0]


def test_a_text_that_goes_in_circles_is_degenerate() -> None:
    assert scores.is_degenerate([1, 2, 3] * 8)
    assert scores.is_degenerate([5, 5, 5, 5, 5, 5, 1, 2, 3, 4])
    assert scores.is_degenerate([1, 2, 3])
    assert not scores.is_degenerate([1, 2, 3, 4, 1, 2, 5, 6])


def test_a_share_has_the_interval_of_wilson() -> None:
    found = scores.share([True] * 8 + [False] * 2)
    assert (found.n, found.of) == (8, 10)
    assert (found.low, found.high) == (
        pytest.approx(0.490, abs=1e-3),
        pytest.approx(0.943, abs=1e-3),
    )
    assert str(scores.share([])) == "-"


# A planted world of two topics.


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_world(1, tmp_path_factory.mktemp("world"), n_topics=2)


@pytest.fixture(scope="module")
def lab(ground: Ground) -> Lab:
    return lab_of(ground)


def kinds_of(ground: Ground, wish: Wish) -> dict[str, int]:
    """Features by what they were planted as for a wish."""
    split = {place: kind.split(":") for place, kind in ground.kinds.items()}
    return {kind: place for place, (kind, topic) in split.items() if topic == wish.name}


@pytest.mark.slow
def test_no_word_of_a_topic_stands_in_a_frame_and_each_is_one_token(lab: Lab) -> None:
    assert not set(WORDS) & {word for frame in FRAMES for word in frame.split()}
    assert len(lab.tokens([f" {word}" for word in WORDS])) == len(WORDS) == len(set(WORDS))


@pytest.mark.slow
def test_the_true_feature_is_usable_and_its_decoys_fire_as_it_does_but_do_not_steer(
    ground: Ground, lab: Lab
) -> None:
    wish = next(each for each in ground.wishes if ground.hidden[each.name].expert is not None)
    kinds = kinds_of(ground, wish)
    true = judge_answer(lab, ground, wish, kinds["true"])
    assert true.exact and true.usable and true.rank == 100 and true.activation >= 95
    for kind in ("mute", "elsewhere", "breaker", "lens"):
        decoy = judge_answer(lab, ground, wish, kinds[kind])
        assert decoy.seen and decoy.activation >= 95 and scores.separates(decoy.seen), kind
        assert not decoy.exact and not decoy.causal, kind
    silent = judge_answer(lab, ground, wish, kinds["silent"])
    assert silent.push >= 40 and silent.activation == 0 and not silent.causal
    poly = judge_answer(lab, ground, wish, kinds["poly"])
    assert poly.push >= 30 and not poly.causal


@pytest.mark.slow
def test_the_same_seed_makes_the_same_world(ground: Ground, tmp_path: Path) -> None:
    again = make_world(1, tmp_path, n_topics=2)
    assert again.kinds == ground.kinds and again.wishes == ground.wishes
    assert again.hidden == ground.hidden


def test_another_seed_has_other_topics_and_some_have_no_good_feature() -> None:
    worlds = [topics_of(Random(seed), 8)[0] for seed in range(8)]
    assert len({word for topic in worlds[0] for word in topic.words}) == 40
    assert all(
        set(one.words) != set(other.words)
        for one in worlds[0]
        for world in worlds[1:]
        for other in world
    )
    assert [topic.wants_true for topic in worlds[0]] == [True, True, True, False] * 2


def test_hard_negatives_are_texts_of_the_topics_on_either_side() -> None:
    """Then a feature of two topics is no good one of either."""
    topics, plain = topics_of(Random(1), 8)
    shown = examples(Random(0), topics[2].words, [topics[2].beside, topics[2].before], plain)
    sides = [{*topics[3].words}, {*topics[1].words}]
    for i, text in enumerate(shown.hard_negatives):
        assert len(sides[i % 2] & set(text.split())) == 3
        assert not {*topics[2].words} & set(text.split())


@pytest.mark.slow
def test_a_player_sees_no_text_or_prompt_that_is_judged(ground: Ground) -> None:
    for wish in ground.wishes:
        hidden = ground.hidden[wish.name]
        assert not {*wish.prompts} & {*hidden.calibration, *hidden.evaluation}
        assert not {*hidden.calibration} & {*hidden.evaluation} and len(hidden.evaluation) == 20


def test_the_pooled_activation_is_that_of_plain_arithmetic(ground: Ground, lab: Lab) -> None:
    wish = ground.wishes[0]
    text, weights = wish.shown.positives[0], dict(lab.sae.tensors())
    plain = Bench(lab.hf, lab.tokenizer, lab.layer, weights, k=0, bos=False, rescaled=False)
    x = plain.run(plain.ids(text))[0][1:]
    acts = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    expected = acts.sort(dim=0, descending=True).values[:3].mean(0)
    torch.testing.assert_close(lab.pooled([text])[0], expected, rtol=1e-3, atol=1e-3)


def test_the_rise_is_that_of_a_plain_hook_text_by_text(ground: Ground, lab: Lab) -> None:
    """One batch of padded prompts says what each prompt alone says."""
    wish = ground.wishes[0]
    prompts, ids = ground.hidden[wish.name].evaluation[:3], lab.tokens(wish.tokens)
    vector = lab.random_direction() * 5
    rises = lab.rises([0 * vector, vector], prompts, ids)
    assert rises[0] == pytest.approx([0, 0, 0], abs=1e-4)
    plain = Bench(lab.hf, lab.tokenizer, lab.layer, {}, k=0, bos=False, rescaled=False)
    for prompt, rise in zip(prompts, rises[1], strict=True):
        n = len(plain.ids(prompt))
        inputs = torch.tensor([plain.ids(prompt)])
        told = {"attention_mask": torch.ones_like(inputs), "pad_token_id": 0, "do_sample": False}
        text = lab.hf.generate(inputs, max_new_tokens=lab.n_new, **told)[0].tolist()
        ends = [i for i in range(n, len(text)) if text[i] in lab.special]
        text = text[: ends[0]] if ends else text
        clean, changed = (
            log_mass(plain.run(text, change)[1][n - 1 : -1].log_softmax(-1), ids)
            for change in (lambda x: x, lambda x: x + vector)
        )
        assert rise == pytest.approx((changed - clean).mean().item(), abs=1e-3)


async def test_a_player_is_scored_on_each_wish_and_shown_in_the_table(ground: Ground) -> None:
    async def none(_: Ground, wishes: list[Wish]) -> list[Answer]:
        return [Answer(None) for _ in wishes]

    played = await play_all([ground], {"probe": probe, "none": none})
    assert Counter(row.answer.feature is None for row in played["probe"]) == {False: 2}
    assert all(row.judged.activation >= 95 for row in played["probe"])
    table = as_table(played)
    assert "| exact |" in table and "| Push |" in table and "| | probe | none |" in table
    told = summary(played["none"])
    assert told["a feature named"].startswith("0 %") and told["Push"] == "0"


async def test_a_live_agent_gets_the_wish_in_words_and_its_last_line_is_the_answer(
    ground: Ground,
) -> None:
    seen: list[Desk] = []

    async def agent(task: Task, desk: Desk) -> Transcript:
        seen.append(desk)
        return Transcript([], "It may be 3.\nFEATURE: 17")

    answers = await live(agent)(ground, ground.wishes[:1])
    assert [answer.feature for answer in answers] == [17]
    wish = ground.wishes[0]
    assert seen[0].prompt == asked_for(ground, wish) and wish.tokens[0] in seen[0].prompt
    assert str(ground.sae) in seen[0].prompt and wish.shown.positives[0] in seen[0].prompt
    assert named("FEATURE: none") is None is named("no idea") and named("feature: 4") == 4


# The embedded concepts and the published settings.


def test_there_are_twenty_concepts_with_texts_that_no_other_side_has() -> None:
    ground = embedded_ground()
    assert len(ground.wishes) >= 20
    for wish in ground.wishes:
        hidden = ground.hidden[wish.name].examples
        texts = [*wish.shown.positives, *wish.shown.others, *hidden.positives, *hidden.others]
        assert len(texts) == len(set(texts)), wish.name
        assert len(wish.shown.positives) >= 8 and len(wish.shown.hard_negatives) >= 6
        assert len(wish.tokens) >= 8
    with pytest.raises(ValueError, match="there is no concept 'wether'"):
        embedded_ground(["wether"])


def checkout(folder: Path, ground: Ground) -> Path:
    """A checkout in the public form, of one task of a planted world."""
    wish = ground.wishes[0]
    hidden = ground.hidden[wish.name]
    cases = [
        {"id": f"{label}{i}", "label": label, "text": text}
        for label, side in zip(
            ("positive", "hard_negative", "neutral"), hidden.examples, strict=True
        )
        for i, text in enumerate(side)
    ]
    concept = {
        "id": "first",
        "target": wish.description,
        "steering_target": {"cues": [*(token.strip() for token in wish.tokens), "two words"]},
        "activation_cases": cases,
    }
    documents: dict[str, Any] = {
        "data/benchmark.json": {
            "model": str(ground.model),
            "tasks": [
                {
                    "task": "tasks/first_001/task.json",
                    "expert_feature_id": hidden.expert,
                    "suite": "data/round/suite.json",
                    "concept_id": "first",
                    "reference": "data/eval/reference.json",
                }
            ],
        },
        "data/round/suite.json": {
            "concepts": [concept],
            "steering_calibration": [{"id": "c", "prompt": each} for each in hidden.calibration],
            "steering_prompts": "../prompts.json",
        },
        "data/prompts.json": {
            "prompts": [{"id": "s", "prompt": each} for each in hidden.evaluation]
        },
        "data/eval/reference.json": {
            "protocol": {"alpha": hidden.strength, "max_new_tokens": 24},
            "source": {
                "repo": "owner/saes",
                "checkpoint": "sae/params.npz",
                "base_model": "glass",
                "layer": 0,
            },
        },
    }
    for name, document in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_a_checkout_in_the_published_form_is_played_and_judged(
    ground: Ground, tmp_path: Path
) -> None:
    (read,) = published_grounds(checkout(tmp_path, ground), saes=Path(ground.sae).parent)
    wish, source = read.wishes[0], ground.wishes[0]
    assert read.hidden[wish.name].examples == ground.hidden[source.name].examples
    assert not any(wish.shown) and wish.description == source.description
    expert = ground.hidden[source.name].expert
    assert expert is not None
    judged = judge_answer(lab_of(read), read, wish, expert)
    assert judged.exact and judged.usable
    (hub,) = published_grounds(tmp_path)
    assert (hub.release, hub.sae) == ("owner/saes", "sae")


def test_published_settings_need_a_checkout_and_a_live_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in (
        (["published"], "--checkout"),
        (["published", "--checkout", str(tmp_path)], "--players live"),
    ):
        with pytest.raises(SystemExit):
            arguments(given)
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"data/benchmark\.json"):
        list(published_grounds(tmp_path))
    assert arguments(["planted"]).seeds == list(range(8))
