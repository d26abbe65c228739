"""What a screen reader is told of a page: Chromium's own tree for it."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from tests.server.view.chromium import Page

ACTS = {
    *("button", "link", "textbox", "searchbox", "combobox", "checkbox", "slider", "spinbutton"),
    *("listbox", "option", "radio", "switch", "tab", "menuitem", "DisclosureTriangle", "Iframe"),
}
"""Roles of what a person can act on or enter."""
PICTURES = {"image", "img", "graphics-document", "figure"}


class Told(NamedTuple):
    """A node as a screen reader has it."""

    role: str
    name: str
    level: int
    live: str


def told(page: Page, *, framed: bool = False) -> list[Told]:
    """The nodes of a page in reading order, without what is hidden from a reader; `framed`: of the
    frame in it."""
    page.send("Accessibility.enable")
    tree = page.send("Page.getFrameTree")["frameTree"]
    frame = (tree["childFrames"][0] if framed else tree)["frame"]["id"]
    nodes = page.send("Accessibility.getFullAXTree", frameId=frame)["nodes"]
    by_id = {node["nodeId"]: node for node in nodes}
    return [*_below(nodes[0], by_id)]


def _below(node: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> Iterator[Told]:
    if not node["ignored"]:
        known = {each["name"]: each["value"].get("value") for each in node.get("properties", [])}
        yield Told(
            node["role"]["value"],
            " ".join(node.get("name", {}).get("value", "").split()),
            known.get("level", 0),
            known.get("live", ""),
        )
    for child in node.get("childIds", []):
        if child in by_id:
            yield from _below(by_id[child], by_id)


def faults(page: Page, *, framed: bool = False) -> list[str]:
    """What a reader could not name, and where headings jump."""
    nodes = told(page, framed=framed)
    unnamed = [each.role for each in nodes if not each.name and each.role in ACTS | PICTURES]
    found = [f"{role} without a name" for role in unnamed]
    levels = [each.level for each in nodes if each.role == "heading"]
    if levels[:1] != [1]:
        found.append(f"the first heading has the level {levels[:1]}")
    jumps = [(high, low) for high, low in pairwise(levels) if low > high + 1]
    return found + [f"a heading of level {low} after one of {high}" for high, low in jumps]
