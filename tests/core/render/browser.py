"""A real Chromium that opens a page around the page under test and says what it saw."""

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("SAESCOPE_TEST_BROWSER") or next(
    (path for name in NAMES if (path := shutil.which(name))), ""
)
HERE = Path(__file__).parent
MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine"),
]


def look(
    given: dict[str, Any],
    script: str,
    folder: Path,
    *,
    dark: bool,
    whole: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """What `script` saw of the pages in `given`, in a browser whose user prefers light or dark;
    tried again where the answer is not `whole`."""
    data = json.dumps(given).replace("<", "\\u003c")
    code = [f"const given = {data};"]
    code += [(HERE / name).read_text("utf-8") for name in ("harness.js", script, "harness_end.js")]
    file = folder / "harness.html"
    scripts = "".join(f"<script>{each}</script>" for each in code)
    file.write_text(f"<!doctype html><meta charset=utf-8><body>{scripts}", encoding="utf-8")
    found = None
    for _ in range(3):
        # on a crowded machine a message of the app may come after the browser's virtual time
        found = re.search(
            r'<pre id="seen">(.*)</pre>',
            dom(file, folder, scheme=0 if dark else 1),
            flags=re.DOTALL,
        )
        if found and whole(json.loads(html.unescape(found[1]))):
            break
    if not found:
        file.write_text("<p>probe</p>", encoding="utf-8")
        if "<p>probe</p>" not in dom(file, folder, scheme=0):
            pytest.skip("Chromium does not open a file here.")
    assert found, "the harness left nothing"
    return json.loads(html.unescape(found[1]))


def dom(file: Path, folder: Path, *, scheme: int) -> str:
    """The document once its scripts have run. No sandbox, which many containers refuse: the file is
    ours, and no host has an address."""
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--blink-settings=preferredColorScheme={scheme}",
    ]
    command += ["--virtual-time-budget=20000", "--dump-dom", file.as_uri()]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=50,
        stdin=subprocess.DEVNULL,
    ).stdout
