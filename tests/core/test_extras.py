"""What an extra installs is asked for where it is used, and the error says which extra it is."""

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from saescope.activations import open_dataset, require_text
from saescope.errors import ConfigError
from saescope.extras import EXTRAS, require_extra
from saescope.training import require_logger

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
USES: list[tuple[str, Callable[[], object], str]] = [
    ("datasets", lambda: require_text(open_dataset("hf:owner/name")), "dataset"),
    ("datasets", lambda: next(open_dataset("hf:owner/name").documents()), "dataset"),
    ("wandb", lambda: require_logger("wandb"), "logger"),
    ("tensorboard", lambda: require_logger("tensorboard"), "logger"),
]


@pytest.mark.parametrize(("package", "use", "field"), USES)
def test_what_lacks_its_package_names_the_extra_and_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, use: Callable[[], object], field: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        use()
    error, wanted = caught.value, f"saescope[{EXTRAS[package]}]"
    assert (error.code, error.field) == ("EXTRA_MISSING", field)
    assert package in error.message and wanted in error.message
    assert f'{sys.executable} -m pip install "{wanted}", or ' in error.hint


def test_a_python_whose_path_has_a_space_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(sys, "executable", "/my tools/bin/python")
    with pytest.raises(ConfigError) as caught:
        require_extra("wandb", "x", field="", without="not.")
    assert '"/my tools/bin/python" -m pip' in caught.value.hint


def test_a_folder_of_that_name_is_no_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """wandb and TensorBoard write runs to folders of their names, and `python -m` looks in the
    working folder first."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match="needs the package wandb"):
        require_extra("wandb", "x", field="", without="not.")


def test_each_extra_is_what_the_manifest_says_and_all_has_them_all() -> None:
    extras: dict[str, list[str]] = PROJECT["optional-dependencies"]
    named = {
        re.split("[<>=]", needed)[0]: extra
        for extra, packages in extras.items()
        for needed in packages
        if extra != "all"
    }
    assert named == EXTRAS
    assert extras["all"] == [f"saescope[{','.join(sorted(extras.keys() - {'all'}))}]"]
    plain = {re.split("[<>=]", needed)[0] for needed in PROJECT["dependencies"]}
    assert not plain & named.keys()
