from pathlib import Path

import pytest

from saescope.errors import ConfigError
from saescope_mcp.settings import Settings, log_level, unknown_variables


def test_the_environment_changes_a_limit() -> None:
    settings = Settings.from_env({"SAESCOPE_MAX_K": "7", "SAESCOPE_OFFLINE": "1", "OTHER": "x"})
    assert (settings.max_k, settings.offline, settings.max_queue) == (7, True, 32)


def test_read_roots_are_separated_as_path_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.pathsep", ":")
    assert Settings.from_env({"SAESCOPE_READ_ROOTS": f"{tmp_path}:/data"}).read_roots == (
        tmp_path,
        Path("/data"),
    )


def test_a_value_that_cannot_be_read_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="SAESCOPE_MAX_K"):
        Settings.from_env({"SAESCOPE_MAX_K": "many"})


def test_the_log_has_a_level_that_there_is() -> None:
    assert log_level({}) == log_level({"SAESCOPE_LOG_LEVEL": ""}) == "WARNING"
    assert log_level({"SAESCOPE_LOG_LEVEL": "debug"}) == "DEBUG"
    with pytest.raises(ConfigError, match="SAESCOPE_LOG_LEVEL: there are DEBUG, INFO"):
        log_level({"SAESCOPE_LOG_LEVEL": "loud"})


def test_a_misspelt_variable_is_found() -> None:
    assert unknown_variables(
        {"SAESCOPE_MAX_KK": "1", "SAESCOPE_HOME": "/x", "SAESCOPE_MAX_K": "1"}
    ) == ["SAESCOPE_MAX_KK"]
