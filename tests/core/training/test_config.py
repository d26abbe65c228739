from typing import Any

import pytest
from tests.core.training.helpers import config

from saescope.errors import ArgumentError, SaescopeError
from saescope.training import OPTIONS, TrainConfig, parse_options


@pytest.mark.parametrize(
    ("knobs", "word"),
    [
        ({"d_sae": 0}, "d_sae"),
        ({"k": 0.0}, "k must be"),
        ({"k": 49.0}, "k must be"),
        ({"k": 2.5}, "whole number"),
        ({"k": float("nan")}, "k must be"),
        ({"batch_size": -1}, "batch_size"),
        ({"training_tokens": 5}, "training_tokens"),
        ({"training_tokens": 10**15}, "training_tokens"),
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"revival": "ghost"}, "does not exist for topk"),
        ({"d_out": 9}, "hook_name_out"),
        ({"skip": True}, "skip"),
        (
            {
                "hook_name_out": "blocks.1.hook_mlp_out",
                "normalize_activations": "covariance_whitening",
            },
            "Whitening",
        ),
        ({"adam_beta1": 1.5}, "adam_beta1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(knobs: dict[str, Any], word: str) -> None:
    with pytest.raises(SaescopeError, match=word):
        config(**knobs)


def test_matryoshka_widths_must_ascend() -> None:
    with pytest.raises(SaescopeError, match="ascend"):
        config("matryoshka_batchtopk", matryoshka_widths=(24, 12))
    assert config("matryoshka_batchtopk").chosen.matryoshka_widths == (12, 24, 48)


def test_the_l0_aimed_at_is_k_unless_jumprelu_has_a_target_of_its_own() -> None:
    quadratic: dict[str, Any] = {"jumprelu_sparsity_loss_mode": "quadratic"}
    assert config("jumprelu", k=7.0, **quadratic).objective.target_l0 == 7
    assert config("jumprelu", k=7.0, target_l0=5.0, **quadratic).objective.target_l0 == 5
    assert config("standard", k=7.0, l1_coefficient=0.0).l0 == 7


@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu"])
def test_a_coefficient_is_steered_unless_it_is_given(architecture: str) -> None:
    assert not config(architecture).steered
    free: dict[str, Any] = {"l1_coefficient": 0.0, "l0_coefficient": 0.0}
    assert config(architecture, **free).steered
    with pytest.raises(SaescopeError, match=r"k must be in \(0, d_sae=48\]"):
        config(architecture, k=49.0, **free)


@pytest.mark.parametrize(
    ("n_tokens", "size"),
    [(100, 100), (50_000, 256), (200_000, 512), (2_000_000, 4096), (10**9, 4096)],
)
def test_a_short_run_takes_small_batches(n_tokens: int, size: int) -> None:
    cfg = TrainConfig(hook_name="x", d_in=4, d_sae=32, training_tokens=n_tokens)
    assert cfg.chosen.batch_size == size


def test_the_learning_rate_falls_with_width_and_steps() -> None:
    rate = {n: config(d_in=16, n_steps=n, lr=0.0).chosen.lr for n in (10, 100, 10_000, 50_000)}
    assert rate == pytest.approx(
        {10: 1 / (16 * 45) ** 0.5, 100: 1 / 40, 10_000: 1 / 400, 50_000: 1 / 400}
    )


def test_options_are_parsed_by_the_table() -> None:
    parsed = parse_options(
        [
            "lp_norm=2",
            "skip=true",
            "matryoshka_widths=8,16",
            "decoder_norm = unit",
            "dead_feature_window=50",
        ]
    )
    assert parsed == {
        "lp_norm": 2.0,
        "skip": True,
        "matryoshka_widths": (8, 16),
        "decoder_norm": "unit",
        "dead_feature_window": 50,
    }


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_options(["dead_feature_windw=50"])
    assert caught.value.code == "UNKNOWN_OPTION"
    assert "dead_feature_window" in caught.value.allowed


@pytest.mark.parametrize(
    "option", ["lp_norm=two", "skip=maybe", "matryoshka_widths=a,b", "log_every=1.5", "lp_norm"]
)
def test_a_malformed_option_is_refused(option: str) -> None:
    with pytest.raises(ArgumentError):
        parse_options([option])


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(ArgumentError, match="lp_norm is given twice"):
        parse_options(["lp_norm=1", "lp_norm=2"])


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SaescopeError, match="revival='magic' is unknown") as caught:
        OPTIONS["revival"].check("revival", "magic")
    assert "resample" in caught.value.allowed


def test_every_option_has_help_and_a_default_within_its_bounds() -> None:
    for name, option in OPTIONS.items():
        assert option.help, name
        option.check(name, option.default)


def test_a_config_survives_json() -> None:
    cfg = config("matryoshka_batchtopk")
    again = TrainConfig.from_dict(cfg.to_dict())
    assert again == cfg
    assert again.hash == cfg.hash


def test_defaults_follow_the_length_of_the_run() -> None:
    short, long = config(n_steps=49), config(n_steps=20_000)
    windows = [cfg.chosen.dead_feature_window for cfg in (short, long)]
    assert windows == [10, 1000]
    assert (long.chosen.lr_warm_up_steps, long.chosen.lr_decay_steps) == (1000, 4000)


def test_what_was_asked_and_what_was_chosen_stand_side_by_side() -> None:
    given: dict[str, Any] = {
        "hook_name": "x",
        "architecture": "matryoshka_batchtopk",
        "d_in": 4,
        "d_sae": 32,
        "k": 4,
        "training_tokens": 50_000,
    }
    cfg = TrainConfig(**given)
    assert cfg.asked == given and type(cfg.asked["k"]) is int
    assert (cfg.d_out, cfg.batch_size, cfg.lr, cfg.matryoshka_widths) == (0, 0, 0.0, ())
    chosen, explicit = cfg.chosen, given | cfg.chosen._asdict()
    assert (chosen.d_out, chosen.batch_size, chosen.matryoshka_widths) == (4, 256, (2, 8, 32))
    assert chosen.lr == (4 * 195) ** -0.5 and chosen.revival == "auxk"
    assert TrainConfig(**explicit).chosen == chosen
    given["lr"] = 1
    assert TrainConfig(**given).chosen.lr == 1.0


def test_asking_for_what_is_chosen_anyway_is_the_same_run() -> None:
    left_open, given = config(n_steps=49), config(n_steps=49, dead_feature_window=10)
    assert left_open.asked != given.asked
    assert left_open.complete == given.complete and left_open.hash == given.hash
