"""The library page explains every parameter of every public function, and no other."""

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / "parameters.py"))


def test_every_parameter_of_a_public_function_is_explained(page: dict[str, Any]) -> None:
    missing = [
        f"{name}.{parameter}"
        for name, function in page["documented"]()
        for parameter in page["parameters"](function)
        if not page["meaning"](name, parameter)
    ]
    assert not missing


def test_nothing_is_explained_that_no_function_takes(page: dict[str, Any]) -> None:
    taken = {name: set(page["parameters"](function)) for name, function in page["documented"]()}
    everywhere = set[str]().union(*taken.values())
    stale = [
        f"{name}.{parameter}"
        for name, known in page["meanings"]().items()
        for parameter in known
        if parameter not in (everywhere if name == "common" else taken[name])
    ]
    assert not stale


def test_an_explanation_is_a_sentence_for_a_table(page: dict[str, Any]) -> None:
    for known in page["meanings"]().values():
        for text in known.values():
            assert "|" not in text and "\n" not in text and len(text) < 260, text


def test_a_default_is_shown_as_it_is_written(page: dict[str, Any]) -> None:
    def function(a: int, *, b: str = "x", c: float = 0.5) -> None: ...

    assert page["parameters"](function) == {"a": "required", "b": "`'x'`", "c": "`0.5`"}
