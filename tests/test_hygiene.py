"""What must hold for the tree as a whole: small functions, no cycles, cheap imports, and documents
that tell the truth."""

import ast
import dataclasses
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import anyio
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from mcp import Client
from mcp.types import Tool
from tests.longest import LONGEST
from tests.shapes import CHECKED, remembering
from torch import Tensor

import saescope
from saescope import records
from saescope.ops import SparseActs, topk_acts
from saescope_mcp import schemas
from saescope_mcp.app import build_server
from saescope_mcp.schemas.common import Request
from saescope_mcp.settings import Settings

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("core/**/*.py"), *ROOT.glob("server/**/*.py")])
MOST_LINES, MOST_PARAMETERS = 50, 6
KEYWORDS_ARE_PROMISED = {
    "saescope.attribution.attribute.attribute",
    "saescope.catalogue.search.find_saes",
    "saescope.errors.__init__",
    "saescope.evals.evaluate.evaluate",
    "saescope.features.rank.rank_features",
    "saescope.graphs.circuit.trace_circuit",
    "saescope.load.load_sae",
    "saescope.publish.writing.publish_sae",
    "saescope.search.causes.find_causes",
    "saescope.search.matching.match_features",
    "saescope.search.pairs.compare_prompts",
    "saescope.search.selection.select_features",
    "saescope.search.strength.steer_search",
    "saescope.sets.opening.load_set",
    "saescope.steering.steer.steer",
    "saescope.steering.sweep.sweep",
    "saescope.steering.writers.find_by_tokens",
}
"""Public functions, whose keywords are promised: a TypedDict would take a misspelt one in
silence."""
FRAGMENT = re.compile(
    r"(Of|As|Also|Along|Unless|The same for|By its|In which|On which|On how many|After minus) "
)
"""How a docstring begins that leans on what stands around it."""
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
SAID_TWICE = {"Tool"}
"""The binder's `Tool`, and its subclass that speaks of tools."""
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = ["README.md", "SKILL.md"]
SPEAKS_OF_TOOLS = {"saescope.publish.writing"}
"""A model card says how the SAE is loaded: by the library, by a tool, at a terminal."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def trees() -> dict[str, ast.Module]:
    """Our modules by name, parsed by the one process that runs these tests."""
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


@cache
def walked() -> dict[str, list[ast.AST]]:
    """All nodes of our modules: a walk over them takes longer than what most tests look for."""
    return {name: list(ast.walk(tree)) for name, tree in trees().items()}


def test_the_longest_files_of_tests_are_there() -> None:
    assert len(set(LONGEST)) == len(LONGEST)
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def test_every_function_fits_on_a_screen() -> None:
    functions = [
        (name, node)
        for name, nodes in walked().items()
        for node in nodes
        if isinstance(node, FUNCTION)
    ]
    lengths = [
        (f"{name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for name, node in functions
    ]
    assert lengths
    assert [(name, length) for name, length in lengths if length > MOST_LINES] == []


def test_no_line_is_longer_than_a_hundred_columns() -> None:
    """Ruff lets one pass that ends with an order to a type checker."""
    folders = ("tests", "scripts", "agent_evals", "benchmarks")
    others = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = [
        f"{path.name}:{n}"
        for path in (*SOURCES, *others)
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert len(SOURCES) > 200 and len(others) > 200 and not long


def docstrings_of(tree: ast.AST) -> Iterator[str]:
    """The docstrings of modules, classes and functions, and those below a name."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for child in body if isinstance(body, list) else []:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                yield " ".join(str(child.value.value).split())


def test_a_docstring_says_by_itself_what_it_is_about() -> None:
    """In a hover it stands alone: "Of each position." does not."""
    fragments = [
        f"{name}: {text[:60]}"
        for name, tree in trees().items()
        for text in docstrings_of(tree)
        if FRAGMENT.match(text)
    ]
    assert FRAGMENT.match("Of each position.") and not fragments


def test_shapes_are_checked_in_every_test_and_bound_within_a_call() -> None:
    """By jaxtyping's import hook, which tests/shapes.py sets on functions and records that name a
    shape."""
    code = torch.zeros(2, 3)
    assert topk_acts(code, 1).n_pos == 2
    for wrong in (code[0], code[None], code.long()):
        with pytest.raises(TypeCheckError):
            topk_acts(wrong, 1)
    assert topk_acts(code, 1).n_pos == 2
    with pytest.raises(TypeCheckError):
        SparseActs(torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(2).long(), 4)


def test_a_check_of_shapes_that_held_is_made_again_for_other_shapes() -> None:
    """Of arguments and of results, whose shapes may depend on what is in the arguments."""

    def rows(x: Float[Tensor, "n d"], first: int) -> Float[Tensor, "m d"]:
        calls.append(first)
        return x[first:] if first < 4 else x[:, :1]

    calls, x = list[int](), torch.zeros(4, 2)
    function = remembering(rows, CHECKED(typechecker=beartype))
    assert [len(function(x, first)) for first in (1, 2)] == [3, 2]
    for wrong in ((x[0], 1), (x.long(), 1), (x, "a"), (x, 4)):
        with pytest.raises(TypeCheckError):
            function(*wrong)
    assert calls == [1, 2, 4]


def test_no_function_takes_more_than_six_parameters() -> None:
    """What travels together is a record, or a TypedDict of keywords; self and cls do not count."""
    found = {
        f"{name}.{node.name}"
        for name, nodes in walked().items()
        for node in nodes
        if isinstance(node, FUNCTION)
        for a in [node.args]
        if len({p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)} - {"self", "cls"})
        > MOST_PARAMETERS
    }
    assert found == KEYWORDS_ARE_PROMISED


def test_a_class_name_means_one_thing() -> None:
    """A leading underscore does not tell two of them apart."""
    names = Counter(
        node.name.lstrip("_")
        for nodes in walked().values()
        for node in nodes
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, n in names.items() if n > 1} == SAID_TWICE


def test_a_callback_that_hears_of_progress_has_its_type_in_one_module() -> None:
    callback = re.compile(r"Callable\[\[(int|int, int|str)\], None\]")
    holders = {
        module_name(path) for path in SOURCES if callback.search(path.read_text(encoding="utf-8"))
    }
    assert holders == {"saescope.progress"}


def test_no_path_is_resolved_in_a_way_that_fails_on_a_loop_of_links() -> None:
    """`Path.resolve` raises RuntimeError there: `fence.real_path` does not. What is given without a
    caller's path may use it."""
    own_paths = {"saescope.fence", "saescope_mcp.cli.demo"}
    found = {
        name
        for name, nodes in walked().items()
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "resolve"
        and not node.args
    }
    assert found == own_paths


def test_sqlite_opens_a_file_in_one_place() -> None:
    """Then there is one opinion on locks, threads and the journal."""
    opening = [
        f"{name}: {ast.unparse(node)}"
        for name, nodes in walked().items()
        for node in nodes
        if isinstance(node, ast.Attribute | ast.ImportFrom)
        if ast.unparse(node) in ("sqlite3.connect", "sqlite3.Connection.__init__")
        or (isinstance(node, ast.ImportFrom) and node.module in ("sqlite3", "sqlite3.dbapi2"))
    ]
    assert opening == ["saescope.database: sqlite3.connect"]


def test_no_database_keeps_a_write_ahead_log() -> None:
    """A file with one cannot be read on a full or read-only disk. Taking an old file out of it
    names the mode too, to compare."""
    said = re.compile(r"journal_mode\s*=\s*[\"']?wal", re.IGNORECASE)
    assert [path.name for path in SOURCES if said.search(path.read_text(encoding="utf-8"))] == []


def calls_of(*names: str) -> set[str]:
    """Modules that call one of these functions or methods."""
    return {
        module
        for module, nodes in walked().items()
        for node in nodes
        if isinstance(node, ast.Call)
        if ast.unparse(node.func).rpartition(".")[2] in names
    }


def test_what_a_model_holds_at_a_site_is_encoded_in_one_place() -> None:
    assert {name for name in calls_of("encode_sparse") if ".saes." not in name} == {
        "saescope.splice"
    }


def test_the_server_opens_models_and_saes_in_one_place() -> None:
    """What a handle means (revision, gate, pickles, network, sinks) cannot be forgotten
    elsewhere."""
    opening = calls_of("load_sae", "load_model", "peek_sae")
    assert {name for name in opening if name.startswith("saescope_mcp.")} == {
        "saescope_mcp.state.loading"
    }
    setting = {
        name
        for name, nodes in walked().items()
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr == "sink_factor"
        if isinstance(node.ctx, ast.Store)
    }
    # A launched run is a worker's, in processes that know no server: it is told what that knows.
    told = "saescope.training.launched"
    assert setting == {"saescope.models.language_model", "saescope_mcp.state.loading", told}


def test_only_models_knows_the_bridge() -> None:
    """Another backend is then another class."""
    found = [
        f"{name}:{node.lineno}"
        for name, nodes in walked().items()
        if not f"{name}.".startswith("saescope.models.")
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr in ("bridge", "original_model")
    ]
    assert found == []


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions count too: a circle that is closed late is a circle."""
    graph = {name: set(imported_anywhere(tree)) - {name} for name, tree in trees().items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def imported_anywhere(node: ast.AST) -> Iterator[str]:
    """Our modules that are imported somewhere in the code, except for type checkers alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    yield from imported_by(node)
    for child in ast.iter_child_nodes(node):
        yield from imported_anywhere(child)


def imported_at_start(tree: ast.Module) -> Iterator[str]:
    """Our modules that `tree` imports while it is imported itself: not those inside functions or
    under TYPE_CHECKING."""
    for node in tree.body:
        yield from imported_by(node)


def imported_by(node: ast.AST) -> Iterator[str]:
    """Our modules that one import statement names; none for any other node."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in trees())
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            name = inside if inside in trees() else node.module
            yield from [name] if name in trees() else []


def test_the_walk_over_imports_sees_into_functions_but_not_what_is_for_type_checkers() -> None:
    code = """
from saescope import ops
if TYPE_CHECKING:
    from saescope.load import load_sae
def late():
    import saescope.hooks
    from saescope.saes import SAE, base
"""
    seen = set(imported_anywhere(ast.parse(code)))
    assert seen == {"saescope.ops", "saescope.hooks", "saescope.saes", "saescope.saes.base"}


def test_a_configuration_is_set_once_by_its_owner() -> None:
    """Frozen means that nobody outside swaps it for another."""
    targets = [
        (name, ast.unparse(target))
        for name, nodes in walked().items()
        for target in nodes
        if isinstance(target, ast.Attribute) and target.attr == "cfg"
        if isinstance(target.ctx, ast.Store)
    ]
    assert targets
    assert [(name, text) for name, text in targets if text != "self.cfg"] == []


def test_no_code_compares_with_the_name_of_a_tool(tools: dict[str, Tool]) -> None:
    """What a tool or a kind of job is like stands in its row, not in an `if` elsewhere: not in
    the scripts either, one of which every user of a plugin runs."""
    scripts = {
        path.name: list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        for path in sorted((ROOT / "scripts").glob("*.py"))
    }
    assert "launch.py" in scripts
    found = [
        f"{name}: {ast.unparse(node)}"
        for name, nodes in (walked() | scripts).items()
        for node in nodes
        if isinstance(node, ast.Compare | ast.match_case)
        if names_in(node) & {*tools}
    ]
    assert found == []


def test_the_library_and_the_binder_speak_of_no_tool(tools: dict[str, Tool]) -> None:
    """`ss.load_sae` is a function of the library, `load_sae` a tool; a card tells readers of both
    how to load. What the binder says of tools is handed to it."""
    arguments = {name for tool in tools.values() for name in tool.input_schema["properties"]}
    # A name that is a word of the language is meant only where it is called.
    words = [name if "_" in name else rf"{name}(?=\()" for name in tools]
    named = re.compile(rf"(?<![\w.])({'|'.join(words)})\b|\b({'|'.join(arguments)})=(true|false)\b")
    texts = [
        (name, node.value)
        for name, nodes in walked().items()
        if name.startswith(("saescope.", "saescope_mcp.binding")) and name not in SPEAKS_OF_TOOLS
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if not node.value.isidentifier()
    ]
    assert len(texts) > 1000
    found = {name: named.findall(text) for name, text in texts if named.search(text)}
    assert found == {}


def test_only_its_own_class_looks_into_what_a_file_said() -> None:
    """`SAEMetadata` has a name for each thing that code reads."""
    looked = re.compile(r"\braw(\.get\(|\[)[\"']")
    found = [
        name
        for name, nodes in walked().items()
        for node in nodes
        if isinstance(node, ast.Call | ast.Subscript) and looked.search(ast.unparse(node))
    ]
    assert {*found} == {"saescope.saes.config"}


def names_in(node: ast.Compare | ast.match_case) -> set[str]:
    """The texts that something is compared with."""
    sides = [node.pattern] if isinstance(node, ast.match_case) else [node.left, *node.comparators]
    return {
        each.value
        for side in sides
        for each in ast.walk(side)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }


def test_no_code_reads_a_verdict_as_text() -> None:
    """A verdict has a level for that: words may change."""
    parsed = re.compile(r"verdict\w*(\[\w+\])?\.(split|r?partition|startswith|endswith|find)\(")
    found = [path.name for path in SOURCES if parsed.search(path.read_text(encoding="utf-8"))]
    assert found == []


def fields_of(package: ModuleType) -> dict[type, set[str]]:
    """The classes of a package's modules with the fields that each writes itself."""
    modules = [
        importlib.import_module(each.name)
        for each in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    return {
        kind: {*kind.__annotations__}
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
        if "__annotations__" in vars(kind)
    }


def test_no_reply_writes_the_fields_of_a_record_again() -> None:
    """A reply that says more than a record inherits it (docs/decisions/012)."""
    written = fields_of(records)
    whole = {
        record: {field.name for field in dataclasses.fields(record)}
        for record in written
        if dataclasses.is_dataclass(record)
    }
    replies = {
        kind: own for kind, own in fields_of(schemas).items() if not issubclass(kind, Request)
    }
    again = {
        kind.__name__
        for kind, own in replies.items()
        for names in whole.values()
        if len(own & names) >= max(3, len(names) / 2)
    }
    assert len(whole) > 40 and len(replies) > 30
    assert again == set()


def test_every_decision_has_a_number_of_its_own() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [name[:3] for name in names]
    titles = [
        (ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8")[:5] for name in names
    ]
    assert numbers == sorted(set(numbers)) and titles == [f"# {number}" for number in numbers]


def test_every_public_name_has_its_place_in_the_manual() -> None:
    """The manual is built by a package that the tests do not need, so the table is read here as it
    stands."""
    tree = ast.parse((ROOT / "scripts" / "build_library_page.py").read_text(encoding="utf-8"))
    (table,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PARTS"
    ]
    placed = [name for names in ast.literal_eval(table).values() for name in names]
    assert sorted(placed) == sorted({*saescope.__all__} - {"__version__"})


def test_every_public_name_of_the_library_is_there() -> None:
    assert [name for name in saescope.__all__ if not hasattr(saescope, name)] == []


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_saescope_brings_nothing_heavy() -> None:
    heavy = {
        "torch",
        "transformers",
        "transformer_lens",
        "huggingface_hub",
        "numpy",
        "mcp",
        "pydantic",
        "matplotlib",
    }
    assert python(f"import sys, saescope; print(*sorted({heavy} & set(sys.modules)))") == ""


def test_all_that_needs_no_language_model_imports_without_the_server_and_its_heavy_libraries() -> (
    None
):
    core = [name for name in trees() if name.split(".")[0] == "saescope"]
    light = [
        name
        for name in core
        if not any(other.startswith("saescope.models") for other in brought_in(name))
    ]
    assert "saescope.load" in light
    refused = [
        "mcp",
        "pydantic",
        "saescope_mcp",
        "matplotlib",
        "transformers",
        "transformer_lens",
        "huggingface_hub",
        "datasets",
    ]
    python(
        f"import importlib, sys; sys.modules.update(dict.fromkeys({refused})); "
        f"[importlib.import_module(m) for m in {light}]"
    )


@cache
def brought_by(module: str) -> list[str]:
    return list(imported_at_start(trees()[module]))


def brought_in(name: str) -> set[str]:
    """This module and all of ours that importing it imports, packages around them included."""
    found, left = set[str](), [name]
    while left:
        parts = left.pop().split(".")
        new = {".".join(parts[:n]) for n in range(1, len(parts) + 1)} - found
        found |= new
        left += [other for module in new for other in brought_by(module)]
    return found


@pytest.fixture(scope="module")
def tools() -> dict[str, Tool]:
    async def published() -> list[Tool]:
        async with Client(build_server(Settings(tools="all"))) as client:
            return (await client.list_tools()).tools

    return {tool.name: tool for tool in anyio.run(published)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_every_tool_and_no_other(document: str, tools: dict[str, Tool]) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE))
    assert listed == set(tools)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_call_in_a_document_is_one_that_the_server_takes(
    document: str, tools: dict[str, Tool]
) -> None:
    calls = [ast.parse(call, mode="eval").body for call in inline_calls(document)]
    assert calls
    for call in calls:
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        schema = tools[call.func.id].input_schema
        given = {keyword.arg for keyword in call.keywords}
        assert given <= set(schema["properties"]), f"{document}: {ast.unparse(call)}"
        assert set(schema.get("required", [])) <= given or not given, (
            f"{document}: {ast.unparse(call)} lacks an argument"
        )


def inline_calls(document: str) -> list[str]:
    """`tool(argument=...)` in code spans and in blocks marked `text`; Python blocks are the
    library's."""
    text = (ROOT / document).read_text(encoding="utf-8")
    prose = re.sub(r"^```(?!text)\w+\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?:`|^)([a-z_]+\([^`]*\))(?:`|$)", prose, flags=re.MULTILINE)


def test_versions_agree() -> None:
    changelog = re.search(
        r"^## \[(\d+\.\d+\.\d+)\]",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert changelog and saescope.__version__ == version("saescope") == changelog[1]


def test_the_repository_has_one_address() -> None:
    addresses = {
        match
        for path in tracked_texts()
        for match in re.findall(r"github\.com/(saescope/\w+)", path.read_text(encoding="utf-8"))
    }
    assert addresses == {
        PYPROJECT["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    }


def test_every_direct_dependency_is_pinned_and_no_index_is_named() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonical(line.split("==")[0]) for line in text.splitlines() if "==" in line}
    project = PYPROJECT["project"]
    groups = [
        *PYPROJECT["dependency-groups"].values(),
        *project["optional-dependencies"].values(),
        project["dependencies"],
    ]
    direct = {
        canonical(re.split(r"[\[<>=]", entry)[0])
        for group in groups
        for entry in group
        if isinstance(entry, str)
    } - {project["name"]}
    assert direct <= pinned
    assert "://" not in text and "torch==2.13.0\n" in text


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def tracked_texts() -> list[Path]:
    """Every text file that git tracks or would track; outside a repository, every file beside the
    sources."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    paths = [ROOT / line for line in listed.stdout.splitlines()] or [
        path for top in ("core", "server", "tests", "docs") for path in ROOT.glob(f"{top}/**/*")
    ]
    return [
        path
        for path in paths
        if path.is_file()
        and path.suffix in {"", ".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".sh"}
    ]


def test_no_tracked_file_holds_a_path_of_somebodys_machine_or_a_token() -> None:
    # Written in pieces, so that this file does not find itself; tests may invent /home/someone and
    # tokens that begin with abc.
    paths = [
        r"/(?:ro" r"ot|wo" r"rk|op" r"t)/[a-z]",
        r"/(?:ho" r"me|Us" r"ers)/(?!some(?:one|body)\b)[a-z]",
        r"[A-Z]:\\Us" r"ers",
    ]
    tokens = [
        r"\bhf_(?!abc)[A-Za-z0-9]{20,}",
        r"\bgh[ps]_(?!abc)[A-Za-z0-9]{20,}",
        r"\bsk-(?!abc)[A-Za-z0-9-]{20,}",
        r"\bAKIA[A-Z0-9]{16}",
        "BEGIN [A-Z ]*PRIVATE KEY",
    ]
    pattern = re.compile("|".join(paths + tokens))
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path in tracked_texts()
        if (match := pattern.search(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}
