"""Every Python block in the documents runs, in order, on the embedded model; names in the text are names of the library."""

import ast
import contextlib
import inspect
import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.docs.desk import FEATURE, Desk
from tests.docs.pages import DOCUMENTS, ROOT, Piece, pieces

import saescope as ss
from saescope import catalogue

SMALLEST: dict[str, Any] = {"training_tokens": 512, "batch_size": 128, "context_size": 32, "d_sae": 64}
"""What stands for the size of a training, which would take minutes."""


def blocks(document: str) -> list[Piece]:
    return [piece for piece in pieces(document) if piece.kind == "python"]


@pytest.fixture
def library(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The library with the embedded model loaded already, and trainings as short as can be."""
    loaded, configured = ss.load_model, ss.train_config

    def load_model(name_or_path: str = "smollm2-135m", **settings: Any) -> Any:
        return desk.model if name_or_path == "smollm2-135m" else loaded(name_or_path, **settings)

    def train_config(model: Any, hook_name: str, **settings: Any) -> Any:
        settings.pop("expansion_factor", None)
        return configured(model, hook_name, **{**settings, **SMALLEST})

    monkeypatch.setattr("saescope.models.load_model", load_model)
    monkeypatch.setattr("saescope.training.train_config", train_config)
    return desk


@pytest.mark.model
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if any(piece.check == "run" for piece in blocks(document))])
def test_the_python_of_a_document_runs(document: str, library: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library.folder)
    namespace: dict[str, Any] = {}
    for piece in blocks(document):
        if piece.check == "run":
            run(piece, library.folder, namespace)


def run(piece: Piece, folder: Path, namespace: dict[str, Any]) -> None:
    code = piece.code.replace("/path/to/", f"{folder}/").replace("1234", str(FEATURE))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n" * (piece.line - 1) + code, piece.document, "exec"), namespace)
    except Exception as error:
        raise AssertionError(f"{piece} does not run: {error!r}") from error


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_that_is_not_run_names_what_the_library_has(document: str) -> None:
    for piece in blocks(document):
        tree = ast.parse(piece.code)
        if piece.check == "schema":
            check_names(tree, str(piece))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_library_has_every_name_that_the_text_names(document: str) -> None:
    for piece in pieces(document):
        if piece.kind == "library" and piece.check == "run":
            check_names(ast.parse(piece.code), str(piece))


def check_names(tree: ast.AST, where: str) -> None:
    """`ss.name` exists, takes the arguments that it is given, and knows the release."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ss":
            assert hasattr(ss, node.attr), f"{where}: saescope has no {node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "ss":
            check_arguments(getattr(ss, node.func.attr), node, where)


def check_arguments(function: Callable[..., Any], call: ast.Call, where: str) -> None:
    if any(isinstance(argument, ast.Constant) and argument.value is ... for argument in call.args):
        return
    try:
        inspect.signature(function).bind(*call.args, **{str(keyword.arg): keyword.value for keyword in call.keywords})
    except TypeError as error:
        raise AssertionError(f"{where}: {ast.unparse(call)}: {error}") from error
    said = {keyword.arg: keyword.value.value for keyword in call.keywords if isinstance(keyword.value, ast.Constant)}
    if said.get("release") and "/" not in str(said["release"]):
        catalogue.get(str(said["release"]), str(said.get("sae_id", "")))


@pytest.mark.model
def test_the_sweep_prints_every_strength_beside_its_controls(
    library: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--feature", str(FEATURE), "--prompt", "I went to the window and saw"]
    words += ["--strengths", "0.5", "4", "--tokens", "4", "--controls", "1"]
    assert run_script("skill/scripts/sweep_strengths.py", words, monkeypatch) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line[:8].strip()] == ["strength", "none", "0.5", "4", "unit:"]


@pytest.mark.model
def test_the_sweep_says_what_is_wrong_and_what_to_do(
    library: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("skill/scripts/sweep_strengths.py", ["--feature", "99999", "--prompt", "I saw"], monkeypatch) == 1
    assert capsys.readouterr().err.startswith("FEATURE_OUT_OF_RANGE: ")


def run_script(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code
