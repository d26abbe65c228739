"""The tutorials are notebooks whose stored outputs came from their sources as they are now; they
run again in the slow tier."""

import ast
import contextlib
import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from tests.docs.test_python import check_names

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts/build_tutorials.py"))
SOURCES = {path.stem for path in (ROOT / "scripts/tutorials").glob("*.md")}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")

SHORT = ("quick_start",)
"""What the slow tier runs of them; the others take minutes."""


def notebook(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"docs/tutorials/{name}.ipynb").read_text(encoding="utf-8"))


def code(name: str) -> list[dict[str, Any]]:
    """The cells of code after the one that installs saescope on Colab."""
    return [cell for cell in notebook(name)["cells"] if cell["cell_type"] == "code"][1:]


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"])


def test_every_source_has_its_notebook() -> None:
    assert {path.stem for path in (ROOT / "docs/tutorials").glob("*.ipynb")} == SOURCES
    assert len(SOURCES) == 4


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_notebook_has_the_cells_of_its_source(name: str) -> None:
    stored = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook(name)["cells"]]
    assert stored == SCRIPT["cells"](name)
    assert f"/docs/tutorials/{name}.ipynb)" in stored[0][1]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_notebook_was_run_without_an_error_and_names_no_path_of_a_machine(name: str) -> None:
    cells = code(name)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream"}
    said = "".join(printed(cell) for cell in cells)
    assert not re.search(r"/(?:home|root|work|tmp|Users)/|[A-Z]:\\|Traceback|Warning", said)
    assert all(printed(cell) for cell in cells if "print(" in "".join(cell["source"]))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_code_of_a_notebook_names_what_the_library_has(name: str) -> None:
    for cell in code(name):
        check_names(ast.parse("".join(cell["source"])), name, releases=False)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SHORT else pytest.mark.thorough)
        for name in sorted(SOURCES)
    ],
)
def test_a_notebook_gives_the_numbers_that_it_shows(
    name: str, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_home)
    namespace: dict[str, Any] = {}
    for cell in code(name):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("".join(cell["source"]), name, "exec"), namespace)
        now, then = (NUMBER.findall(text) for text in (out.getvalue(), printed(cell)))
        # Rounding differs between processors, and a training makes more of it: 3.3 % was seen.
        assert [float(number) for number in now] == pytest.approx(
            [float(number) for number in then], abs=0.06, rel=0.05
        )
