"""The skill as its readers find it: valid, small, complete, with links that lead somewhere and
words that the tools use."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.docs.pages import DOCUMENTS, ROOT, pieces

from saescope_mcp.settings import Settings

SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")
FRONT, BODY = SKILL.split("---\n", 2)[1:]
REFERENCES = sorted(path.name for path in ROOT.glob("skill/references/*.md"))
GENERATED = ROOT / "skills" / "saescope"
ALSO = {"HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "SAESCOPE_HOME", "SAESCOPE_LOG_LEVEL", "GPT"}
WORDS_OF_ERRORS = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")


def test_the_front_matter_is_what_the_specification_allows() -> None:
    said = yaml.safe_load(FRONT)
    assert set(said) <= {
        "name",
        "description",
        "license",
        "compatibility",
        "metadata",
        "allowed-tools",
    }
    assert said["name"] == "saescope" == GENERATED.name
    assert 1 <= len(said["description"]) <= 1024 and "Use when" in said["description"]
    assert len(said["compatibility"]) <= 500
    assert all(isinstance(value, str) for value in said.values())


BYTES_A_TOKEN = 3.5
"""Of our prose; the published tokenizers take 4 and more."""


def test_the_page_is_short_enough_to_be_read_at_once() -> None:
    read = (GENERATED / "SKILL.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    assert len(read.splitlines()) < 500
    assert len(read.encode()) / 3 < 5000
    assert all(
        len((ROOT / "skill/references" / name).read_bytes()) / BYTES_A_TOKEN < 3000
        for name in REFERENCES
    )


@pytest.mark.model
def test_a_real_tokenizer_counts_fewer_than_5000_tokens(smollm: object) -> None:
    read = (GENERATED / "SKILL.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    assert len(smollm.tokenizer.hf(read).input_ids) < 5000  # type: ignore[attr-defined]


def test_the_skill_has_gotchas_and_says_when_to_read_each_reference() -> None:
    assert "\n## Gotchas\n" in BODY
    linked = re.findall(
        r"^\| \[\w+\]\(skill/references/([\w.]+)\) \| .{20,} \|$", BODY, flags=re.MULTILINE
    )
    assert sorted(linked) == REFERENCES
    assert all(
        "\nRead this " in (ROOT / "skill/references" / name).read_text(encoding="utf-8")
        for name in REFERENCES
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert [target for target in targets if not ((ROOT / document).parent / target).exists()] == []
    if "references/" in document:
        assert targets == [], "references stand alone: a reader may have this one page only"


def test_what_clients_install_is_up_to_date_and_has_no_markers() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/build_skill.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = [*GENERATED.rglob("*.md")]
    assert len(pages) == 1 + len(REFERENCES)
    assert [page.name for page in pages if "<!--" in page.read_text(encoding="utf-8")] == []
    installed = (GENERATED / "SKILL.md").read_text(encoding="utf-8")
    assert all(
        (GENERATED / link).is_file() for link in re.findall(r"\]\((references/[\w.]+)\)", installed)
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_of_a_kind_that_is_checked(document: str) -> None:
    found = pieces(document)
    assert {piece.kind for piece in found} <= {"call", "command", "library", "python", "json"}
    for block in (piece for piece in found if piece.kind == "json"):
        servers = json.loads(block.code)["mcpServers"]
        assert [
            (server["command"].rpartition("/")[2], server["args"]) for server in servers.values()
        ] == [("saescope", ["serve"])]


def words_of_the_source() -> set[str]:
    """Every name and every text without blanks in the code: what a field, argument, option, mode or
    verdict can be."""
    words: set[str] = set()
    for path in [*ROOT.glob("core/**/*.py"), *ROOT.glob("server/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case (
                    ast.Name(id=name)
                    | ast.arg(arg=name)
                    | ast.Attribute(attr=name)
                    | ast.FunctionDef(name=name)
                ):
                    words.add(name)
                case (
                    ast.ClassDef(name=name)
                    | ast.AsyncFunctionDef(name=name)
                    | ast.keyword(arg=str(name))
                ):
                    words.add(name)
                case ast.Constant(value=str(text)):
                    words |= set(re.findall(r"\w+", text))
                case _:
                    pass
    return words


@pytest.fixture(scope="module")
def vocabulary() -> set[str]:
    return words_of_the_source()


@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS if "migration" not in document]
)
def test_every_field_and_code_that_a_page_names_exists(document: str, vocabulary: set[str]) -> None:
    text = re.sub(
        r"^```.*?^```$",
        "",
        (ROOT / document).read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    spans = re.findall(r"`([^`\n]+)`", text)
    names = {
        word
        for span in spans
        if re.fullmatch(r"[a-z_]+(\[\])?(\.[a-z_]+(\[\])?)*", span)
        for word in re.findall(r"\w+", span)
    }
    assert {name for name in names if name not in vocabulary} <= set(_files())
    settings = {f"SAESCOPE_{name.upper()}" for name in Settings.model_fields}
    assert {
        word for word in WORDS_OF_ERRORS.findall(text) if word not in vocabulary | settings | ALSO
    } == set()


def _files() -> set[str]:
    """Parts of names of files and programs, which are no names of the code."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split() or [path.name for path in ROOT.rglob("*")]  # an sdist has no git
    parts = {part for name in names for part in re.findall(r"\w+", Path(name).name)}
    return parts | {"make", "pip", "uv", "cp", "mcpb"}


def test_there_are_ten_queries_that_should_and_ten_that_should_not_wake_the_skill() -> None:
    queries = json.loads((ROOT / "skill/trigger_queries.json").read_text(encoding="utf-8"))
    assert all(set(query) == {"query", "should_trigger"} for query in queries)
    assert [query["should_trigger"] for query in queries].count(True) == 10 == len(queries) / 2
    assert len({query["query"] for query in queries}) == 20
