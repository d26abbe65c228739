"""Runs inside Hermes's own environment: what it makes of our server and skill, as one line of
JSON."""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

found: Any = import_module("tools.mcp_tool").discover_mcp_tools()
registry: Any = import_module("tools.registry").registry
skill = json.loads(import_module("tools.skills_tool").skill_view("saescope"))
guard: Any = import_module("tools.skills_guard").scan_skill(Path(sys.argv[1]), source="community")
first = str(registry.dispatch("mcp__sae__server_status", {}))
last, give_up = "", time.monotonic() + 240
while "gpt2-small-res-jb" not in last and time.monotonic() < give_up:
    time.sleep(2)
    last = str(registry.dispatch("mcp__sae__find_saes", {"query": "gpt2-small-res-jb", "limit": 1}))
sys.stdout.write(
    "\n"
    + json.dumps(
        {
            "tools": found,
            "skill": skill["success"],
            "guard": guard.verdict,
            "first": first,
            "last": last,
        }
    )
    + "\n"
)
