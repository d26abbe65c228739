"""A logger that cannot work is refused before the run, and coded if it only shows then."""

from pathlib import Path

import pytest
from tests.core.training.test_run import small

from saescope.errors import ConfigError
from saescope.models import LanguageModel
from saescope.names import WANDB_QUIETED
from saescope.training import mode_of_wandb, require_logger
from saescope.training.loggers import make_log


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nobody has logged in."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("saescope.extras.is_installed", lambda package: True)
    return tmp_path


def refused(**mode: str) -> str:
    try:
        require_logger("wandb", **mode)
    except ConfigError as error:
        return error.code
    return ""


def test_wandb_needs_a_login_only_where_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(wandb_mode="online") == "LOGIN_MISSING"
    assert not refused(wandb_mode="offline") and not refused(wandb_mode="disabled")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert refused() == "LOGIN_MISSING"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert not refused()


@pytest.mark.parametrize(
    ("host", "base", "found"),
    [
        ("api.wandb.ai", "", True),
        ("example.org", "", False),
        ("wandb.example.org", "https://wandb.example.org/", True),
        ("api.wandb.ai", "https://wandb.example.org", False),
    ],
)
def test_a_login_is_found_where_wandb_looks(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, host: str, base: str, found: bool
) -> None:
    (nobody / ".netrc").write_text(f"machine {host}\n  login user\n  password {'x' * 40}\n")
    if base:
        monkeypatch.setenv("WANDB_BASE_URL", base)
    assert refused(wandb_mode="online") == ("" if found else "LOGIN_MISSING")


def test_the_mode_is_the_users_unless_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, mode in (("offline", "offline"), ("online", "online"), ("shared", "shared")):
        monkeypatch.setenv("WANDB_MODE", said)
        assert mode_of_wandb(offline=False) == mode
        assert mode_of_wandb(offline=True) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_of_wandb(offline=False) == mode_of_wandb(offline=True) == "disabled"


def test_wandb_that_does_not_start_is_a_coded_error(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb comes with an extra")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "short")  # which wandb itself refuses, without the network
    with pytest.raises(ConfigError, match=r"wandb does not start: .*API key") as caught:
        make_log(small(glass, logger="wandb"), tmp_path)
    assert caught.value.code == "LOGGER_FAILED" and caught.value.field == "logger"


def test_tensorboard_that_cannot_be_imported_is_a_coded_error(
    glass: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="tensorboard does not start") as caught:
        make_log(small(glass, logger="tensorboard"), tmp_path)
    assert caught.value.code == "LOGGER_FAILED"


@pytest.mark.parametrize(
    ("said", "ours", "offline", "mode"),
    [
        (None, False, False, "online"),
        (None, False, True, "offline"),
        ("disabled", True, False, "online"),
        ("disabled", False, False, "disabled"),
        ("disabled", False, True, "disabled"),
        ("offline", False, False, "offline"),
        ("dryrun", False, False, "offline"),
        ("shared", False, False, "shared"),
        ("shared", False, True, "offline"),
    ],
)
def test_the_users_mode_of_wandb_is_kept(
    monkeypatch: pytest.MonkeyPatch, said: str | None, ours: bool, offline: bool, mode: str
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if said is not None:
        monkeypatch.setenv("WANDB_MODE", said)
    if ours:
        monkeypatch.setenv(WANDB_QUIETED, "1")
    assert mode_of_wandb(offline=offline) == mode
