"""The glossary explains the words that pages link to it, and the pages that name figures have
those of the SAE that ships."""

import re
import runpy
from pathlib import Path

import pytest

from saescope.embedded import landmarks

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?:glossary\.md)?#([\w-]+)\)")
ENTRIES: list[str] = re.findall(r"(?m)^### (.+)$", (DOCS / "glossary.md").read_text("utf-8"))
ANCHORS = {re.sub(r"\W", "-", name.lower()) for name in ENTRIES}
LINKING = ("tools.md", "ten_minutes.md", "glossary.md")


@pytest.mark.parametrize("page", LINKING)
def test_every_term_that_a_page_links_is_in_the_glossary(page: str) -> None:
    linked = set(LINK.findall((DOCS / page).read_text(encoding="utf-8")))
    assert linked <= ANCHORS
    assert page == "glossary.md" or len(linked) >= 8


def test_a_term_has_one_short_entry() -> None:
    assert len(ENTRIES) == len(set(ENTRIES)) == len(ANCHORS)
    for entry in (DOCS / "glossary.md").read_text(encoding="utf-8").split("\n### ")[1:]:
        words = entry.partition("\n## ")[0].split()
        assert 5 < len(words) < 70, entry


def test_every_tool_that_speaks_of_features_links_the_word() -> None:
    sections = (DOCS / "tools.md").read_text(encoding="utf-8").split("\n## ")[1:]
    bare = [
        section.partition("\n")[0]
        for section in sections
        if re.search(r"(?i)\b(?<!_)features?\b", section.split("\n\n")[1])
        and "glossary.md#feature" not in section
    ]
    assert len(sections) > 15 and not bare


def test_a_term_is_linked_once_and_never_inside_code() -> None:
    script = runpy.run_path(str(ROOT / "scripts/build_reference.py"))
    text = script["linked"](
        "`feature` and Features: the measured_effect of features", script["terms"]()
    )
    assert text == (
        "`feature` and [Features](glossary.md#feature): the "
        "[measured_effect](glossary.md#measured-effect) of features"
    )


def test_the_ten_minutes_have_the_figures_of_the_sae_that_ships() -> None:
    script = runpy.run_path(str(ROOT / "scripts/embedded_story.py"))
    assert (DOCS / "ten_minutes.md").read_text(encoding="utf-8") == script["page"](landmarks())
