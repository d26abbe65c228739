"""What clients send and cannot correct is taken, for every argument of its kind; nothing else
is."""

import json
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError
from tests.server.helpers import refuse

from saescope_mcp.app import ALL_TOOLS
from saescope_mcp.binding import Tool
from saescope_mcp.schemas.common import Item
from saescope_mcp.settings import Settings
from saescope_mcp.state import AppState

PROBLEM = {"int_type", "list_type", "model_type", "model_attributes_type", "int_from_float"}


def arguments(wanted: Any) -> list[Any]:
    """Every tool with each of its arguments of this type."""
    return [
        pytest.param(tool, info.alias or name, id=f"{tool.name}.{name}")
        for tool in ALL_TOOLS
        for name, info in tool.request.model_fields.items()
        if wanted in (info.annotation, get_origin(info.annotation))
    ]


def type_problems(tool: Tool, name: str, value: Any) -> list[Any]:
    """What is wrong with the value's type; other arguments may be missing."""
    try:
        tool.request.model_validate({name: value})
    except ValidationError as error:
        return [e["loc"] for e in error.errors() if e["type"] in PROBLEM and e["loc"][0] == name]
    return []


def example(kind: Any) -> Any:
    inner = get_args(kind)[0]
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return [{"feature": 3.0, "strength": 1}]
    return {int: [1.0, -2.0], bool: [True, False]}.get(inner, ['["a"]', "b"])


@pytest.mark.parametrize(("tool", "name"), arguments(int))
def test_a_whole_number_written_as_a_fraction_is_an_integer(tool: Tool, name: str) -> None:
    assert type_problems(tool, name, 2.0) == []
    for wrong in (2.5, "2", True, "abc", None, float("inf")):
        assert type_problems(tool, name, wrong) == [(name,)], wrong


@pytest.mark.parametrize(("tool", "name"), arguments(list))
def test_a_list_may_come_as_json_text(tool: Tool, name: str) -> None:
    said = example(tool.request.model_fields[name].annotation)
    assert type_problems(tool, name, said) == type_problems(tool, name, json.dumps(said)) == []
    for wrong in ("abc", '{"a": 1}', "[", "5", "[" * 10**5, "", 5, "[" + "9" * 5000 + "]"):
        assert type_problems(tool, name, wrong) == [(name,)], wrong


@pytest.mark.parametrize(("tool", "name"), arguments(list))
def test_objects_in_a_list_may_come_as_json_text(tool: Tool, name: str) -> None:
    inner = get_args(tool.request.model_fields[name].annotation)[0]
    if isinstance(inner, type) and issubclass(inner, Item):
        assert type_problems(tool, name, ['{"feature": 3.0}']) == []
        assert type_problems(tool, name, ["[]"]) == [(name, 0)]
        assert type_problems(tool, name, [{"feature": 2.5}]) == [(name, 0, "feature")]


def test_a_text_that_looks_like_json_stays_text() -> None:
    top: Any = next(tool for tool in ALL_TOOLS if tool.name == "top_features").request
    assert top.model_validate({"sae": "a", "text": '["a"]'}).text == '["a"]'
    read = top.model_validate({"sae": "a", "texts": '["[1]", "b"]'})
    assert read.texts == ["[1]", "b"]  # type: ignore[attr-defined]
    assert read.model_fields_set == {"sae", "texts"}


async def test_limits_hold_for_what_came_as_text(own_home: Path) -> None:
    state = AppState(Settings())
    many = await refuse(state, "top_features", sae="a", texts=json.dumps(["a"] * 17))
    half = await refuse(state, "top_features", sae="a", texts='["\\ud83d"]')
    assert (many["code"], half["code"]) == ("TOO_MANY_ITEMS", "INVALID_STRING")
