"""Every Python block in the documents names what the library has, and runs in the slow tier, in
order, on the embedded model."""

import ast
import contextlib
import inspect
import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.docs.desk import CONTEXT, FEATURE, Desk
from tests.docs.pages import DOCUMENTS, ROOT, Piece, pieces

import saescope as ss
from saescope import catalogue

SMALLEST: dict[str, Any] = {
    "training_tokens": 128,
    "batch_size": 64,
    "context_size": 16,
    "d_sae": 64,
    "n_batches_for_norm_estimate": 1,
}
"""What stands for the size of a training, which would take minutes."""


def blocks(document: str) -> list[Piece]:
    return [piece for piece in pieces(document) if piece.kind == "python"]


@pytest.fixture
def library(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The library with the embedded model loaded already; trainings, texts and evaluations as short
    as can be."""
    loaded, configured, steered, evaluated = ss.load_model, ss.train_config, ss.steer, ss.evaluate

    def load_model(name_or_path: str = "smollm2-135m", **settings: Any) -> Any:
        return desk.model if name_or_path == "smollm2-135m" else loaded(name_or_path, **settings)

    def train_config(model: Any, hook_name: str, **settings: Any) -> Any:
        settings.pop("expansion_factor", None)
        return configured(model, hook_name, **{**settings, **SMALLEST})

    def steer(*given: Any, **settings: Any) -> Any:
        return steered(*given, **{**settings, "max_new_tokens": 2, "n_controls": 1})

    def evaluate(*given: Any, **settings: Any) -> Any:
        return evaluated(*given, **{**settings, "n_tokens": 64})

    monkeypatch.setattr(*CONTEXT)
    monkeypatch.setattr("saescope.steering.steer", steer)
    monkeypatch.setattr("saescope.evals.evaluate", evaluate)
    monkeypatch.setattr("saescope.models.load_model", load_model)
    monkeypatch.setattr("saescope.training.train_config", train_config)
    return desk


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if any(piece.check == "run" for piece in blocks(each))],
)
def test_the_python_of_a_document_runs(
    document: str, library: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_the_python_of_a_document_names_what_the_library_has(document: str) -> None:
    for piece in blocks(document):
        # What runs may show an error: a release that is not there.
        check_names(ast.parse(piece.code), str(piece), releases=piece.check == "schema")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_library_has_every_name_that_the_text_names(document: str) -> None:
    for piece in pieces(document):
        if piece.kind == "library" and piece.check == "run":
            check_names(ast.parse(piece.code), str(piece), releases=True)


def check_names(tree: ast.AST, where: str, *, releases: bool) -> None:
    """`ss.name` exists and takes the arguments that it is given; `releases` are published ones."""
    ours = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ss"
    ]
    assert [node.attr for node in ours if not hasattr(ss, node.attr)] == [], where
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.func in ours:
            check_arguments(getattr(ss, ast.unparse(node.func).removeprefix("ss.")), node, where)
            if releases:
                look_up_release(node)


def check_arguments(function: Callable[..., Any], call: ast.Call, where: str) -> None:
    if any(isinstance(argument, ast.Constant) and argument.value is ... for argument in call.args):
        return
    try:
        inspect.signature(function).bind(
            *call.args, **{str(keyword.arg): keyword.value for keyword in call.keywords}
        )
    except TypeError as error:
        raise AssertionError(f"{where}: {ast.unparse(call)}: {error}") from error


def look_up_release(call: ast.Call) -> None:
    said = {
        keyword.arg: keyword.value.value
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Constant)
    }
    if said.get("release") and "/" not in str(said["release"]):
        catalogue.get(str(said["release"]), str(said.get("sae_id", "")))


@pytest.mark.slow
@pytest.mark.model
def test_the_sweep_prints_every_strength_beside_its_controls(
    library: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--feature", str(FEATURE), "--prompt", "I went to the window and saw"]
    words += ["--strengths", "0.5", "4", "--tokens", "4", "--concept", " sea"]
    assert run_script("skill/scripts/sweep_strengths.py", words, monkeypatch) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line[:8].strip()] == [
        "strength",
        "none",
        "0.5",
        "4",
        "unit:",
    ]


def test_the_sweep_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--feature", "1", "--prompt", "I saw", "--path", str(tmp_path / "nothing")]
    assert run_script("skill/scripts/sweep_strengths.py", words, monkeypatch) == 1
    assert capsys.readouterr().err.startswith("FILE_MISSING: ")


def run_script(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code
