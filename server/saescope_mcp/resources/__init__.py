"""What a client may read beside the tools: a file per family, each with its `RESOURCES` list."""

from saescope_mcp.resources.pages import apps, serve_pages
from saescope_mcp.resources.resource import Resource, register
from saescope_mcp.resources.skill import SkillExtension, skill_folder

__all__ = ["Resource", "SkillExtension", "apps", "register", "serve_pages", "skill_folder"]
