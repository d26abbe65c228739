"""Bounds that are settings, and strings that are safe to pass on."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from saescope_mcp.settings import Settings

MARK = "x-at-most"
"""The key in a schema, before it is published, for the setting that bounds this value."""


@cache
def _defaults() -> Settings:
    return Settings()


@dataclass(frozen=True)
class AtMost:
    """The upper bound of a number, a text's length or a list's length is the setting of this
    name."""

    setting: str
    both_sides: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_wrap_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), MARK: [self.setting, self.both_sides]}

    def _check(self, value: Any, handler: Callable[[Any], Any], info: Any) -> Any:
        settings = info.context["settings"] if info.context else _defaults()
        limit = getattr(settings, self.setting)
        is_text = self.setting.endswith("_chars")
        if (
            isinstance(value, str if is_text else list) and len(value) > limit
        ):  # before each of a million items is looked at
            kind = "string_too_long" if is_text else "too_long"
            raise PydanticCustomError(
                kind, "{actual} is more than {limit}", {"actual": len(value), "limit": limit}
            )
        checked = handler(value)
        if isinstance(checked, int | float) and (
            checked > limit or (self.both_sides and checked < -limit)
        ):
            low = -limit if self.both_sides else None
            raise PydanticCustomError(
                "less_than_equal", "must be at most {le}", {"le": limit, "ge": low}
            )
        return checked


def publish_bounds(schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Replace the marks in a property's schema by the limits of these settings."""
    setting, both_sides = schema.pop(MARK)
    limit = getattr(settings, setting)
    if schema["type"] in ("integer", "number"):
        return {**schema, "maximum": limit} | ({"minimum": -limit} if both_sides else {})
    return {**schema, ("maxItems" if schema["type"] == "array" else "maxLength"): limit}


def _plain(value: str) -> str:
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise PydanticCustomError(
            "invalid_string", "holds a NUL character or half of a surrogate pair"
        )
    return value


def invisible(value: str) -> str | None:
    """The first character that nobody can see, such as a line break: no name holds one."""
    hidden = ("Cc", "Cf", "Zl", "Zp")
    return next((char for char in value if unicodedata.category(char) in hidden), None)


def _identifier(value: str) -> str:
    if bad := invisible(_plain(value)):
        raise PydanticCustomError(
            "invalid_id", "holds the invisible character U+{code}", {"code": f"{ord(bad):04X}"}
        )
    return value


def _repository(value: str) -> str:
    if value and (
        ".." in value or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", _identifier(value))
    ):
        raise PydanticCustomError("invalid_repo_id", "is neither a name nor owner/name")
    return value


def _inside(value: str) -> str:
    if value and (
        ".." in value.split("/") or value.startswith("/") or "\\" in value or "://" in value
    ):
        raise PydanticCustomError(
            "invalid_repo_id", "must be a name below the release, without '..'"
        )
    return _identifier(value)


def _file_name(value: str) -> str:
    """A name that is a file's on every system, and no path."""
    bad = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", value) or value.endswith(".")
    if value and (bad or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", _identifier(value))):
        raise PydanticCustomError(
            "invalid_name", "must be 1 to 64 letters, digits, '.', '_' and '-'"
        )
    return value


def _local(value: str) -> str:
    if "://" in value:
        raise PydanticCustomError(
            "invalid_repo_id", "is a URL: only names and local paths are read"
        )
    return _identifier(value)


def _searchable(value: str) -> str:
    if value:
        from saescope.errors import ArgumentError
        from saescope.patterns import Pattern

        try:
            Pattern(_plain(value))
        except ArgumentError as error:
            why = error.message.removesuffix(".").removeprefix("The pattern ")
            raise PydanticCustomError("invalid_pattern", "{why}", {"why": why}) from None
    return value


Text = Annotated[str, AfterValidator(_plain), AtMost("max_prompt_chars")]
Identifier = Annotated[str, AfterValidator(_identifier), AtMost("max_id_chars")]
Repository = Annotated[str, AfterValidator(_repository), AtMost("max_id_chars")]
InsideRelease = Annotated[str, AfterValidator(_inside), AtMost("max_id_chars")]
Name = Annotated[str, AfterValidator(_file_name), AtMost("max_id_chars")]
LocalPath = Annotated[str, AfterValidator(_local), AtMost("max_path_chars")]
Search = Annotated[str, AfterValidator(_searchable), AtMost("max_id_chars")]
