"""The skill page that fits this version, served by the server itself (MCP extension "Skills",
SEP-2640).

Clients of that extension list it with digests; all others see plain resources under
skill://saescope/.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp.server.extension import Extension, MethodBinding, ResourceBinding
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, PaginatedRequestParams, RequestParams

NAME = "saescope"
PAGE = f"skill://{NAME}/SKILL.md"
_ERA = frozenset({"2026-07-28"})
_CACHED_MS = 3_600_000
_TYPES = {
    ".md": "text/markdown",
    ".json": "application/json",
    ".py": "text/x-python",
    ".svg": "image/svg+xml",
}


def skill_folder() -> Path | None:
    """The skill's folder in an installed package or in a checkout; None where somebody has removed
    it."""
    package = Path(__file__).parents[1]
    folders = (package / "_skill" / NAME, package.parents[1] / "skills" / NAME)
    return next((folder for folder in folders if (folder / "SKILL.md").is_file()), None)


class GetParams(RequestParams):
    """The parameters of skills/get."""

    uri: str


class SkillExtension(Extension):
    """skills/list, skills/get, and each file as a resource."""

    identifier = "io.modelcontextprotocol/skills"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resources(self) -> Sequence[ResourceBinding]:
        return [ResourceBinding(self._resource(path)) for path in self._files()]

    def methods(self) -> Sequence[MethodBinding]:
        return [
            MethodBinding("skills/list", PaginatedRequestParams, self._list, _ERA),
            MethodBinding("skills/get", GetParams, self._get, _ERA),
        ]

    async def _list(self, context: Any, params: PaginatedRequestParams) -> dict[str, Any]:
        return _complete(skills=[self._entry()])

    async def _get(self, context: Any, params: GetParams) -> dict[str, Any]:
        if params.uri != PAGE:
            raise MCPError(
                code=INVALID_PARAMS,
                message=f"There is no skill {params.uri!r}; there is {PAGE}.",
                data={"uri": params.uri},
            )
        return _complete(skill=self._entry())

    def _files(self) -> list[Path]:
        """The front page first."""
        paths = (
            path
            for path in self.folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        )
        return sorted(paths, key=lambda path: (path.name != "SKILL.md", path))

    def _uri(self, path: Path) -> str:
        return f"skill://{NAME}/{path.relative_to(self.folder).as_posix()}"

    def _entry(self) -> dict[str, Any]:
        contents = {self._uri(path): path.read_bytes() for path in self._files()}
        files = [
            {"uri": uri, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
            for uri, data in contents.items()
        ]
        return {"uri": PAGE, "frontmatter": self._frontmatter(), "resources": files}

    def _frontmatter(self) -> dict[str, Any]:
        import yaml

        return yaml.safe_load(
            (self.folder / "SKILL.md").read_text(encoding="utf-8").split("---\n")[1]
        )

    def _resource(self, path: Path) -> FunctionResource:
        name, description = (
            path.relative_to(self.folder).as_posix(),
            f"A file of the skill {NAME}, linked from its SKILL.md.",
        )
        if name == "SKILL.md":
            line = re.search(
                r"^description: (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE
            )
            name, description = (
                NAME,
                line[1] if line else "",
            )  # without a YAML parser: every start pays for this

        async def read() -> str:
            try:
                return path.read_bytes().decode()  # as it is: the digest is of these bytes
            except OSError as error:
                raise ResourceNotFoundError(f"{path.name} is no longer there.") from error

        return FunctionResource(
            uri=self._uri(path),
            name=name,
            description=description,
            mime_type=_TYPES.get(path.suffix, "text/plain"),
            fn=read,
        )


def _complete(**fields: Any) -> dict[str, Any]:
    return {**fields, "ttlMs": _CACHED_MS, "cacheScope": "public", "resultType": "complete"}
