"""A real Chromium in real time, led by its own protocol over a pipe."""

import base64
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.core.render.browser import BROWSER

LONGEST_S = 20.0


class Page:
    """One tab."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._left = read, write, b""
        self._n, self._session = 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept."""
        self._n += 1
        command: dict[str, Any] = {"id": self._n, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != self._n:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            got = os.read(self._read, 1 << 20)
            assert got, "Chromium is gone"
            self._left += got
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def eval(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        done = self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, condition: str) -> Any:
        """The value of an expression once it is true; what it needs may be missing until then, as a
        page's body is while the page loads."""
        end = time.monotonic() + LONGEST_S
        while not self.eval(f"(() => {{ try {{ return Boolean({condition}) }} catch {{}} }})()"):
            shown = "document.body?.innerText"
            assert time.monotonic() < end, (condition, self.eval(shown))
            time.sleep(0.05)  # in the page, a wait would be lost where it goes elsewhere
        return self.eval(condition)

    def press(self, key: str) -> None:
        codes = {"Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, "/": 191}
        given: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"Enter": {"text": "\r"}, "/": {"text": "/"}}.get(key, {})
        self.send("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **given)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def look(self, *, dark: bool = False, width: int = 1200) -> None:
        scheme = "dark" if dark else "light"
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )

    def picture(self, path: Path) -> None:
        done = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(done["data"]))

    def complaints(self) -> list[str]:
        """What was logged as an error or thrown, refused loads included."""
        told: list[str] = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                told.append(json.dumps(event["params"])[:500])
            if event.get("method") == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry["level"] == "error":
                    told.append(f"{entry['text']} {entry.get('url', '')}")
        return told

    def asked_hosts(self) -> set[str]:
        """Where requests went."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return {"/".join(url.split("/")[:3]) for url in urls}


@contextmanager
def chromium(folder: Path) -> Generator[Page]:
    """A browser of its own for a test."""
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-quic --remote-debugging-pipe"
    )
    words = [BROWSER, *flags.split(), f"--user-data-dir={folder / 'profile'}"]
    with subprocess.Popen(
        words,
        pass_fds=(3, 4),  # where Chromium looks for them
        preexec_fn=lambda: _as_3_and_4(commands, answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as browser:
        os.close(commands)
        os.close(answers)
        try:
            yield Page(from_browser, to_browser)
        finally:
            browser.kill()
            os.close(to_browser)
            os.close(from_browser)


def _as_3_and_4(commands: int, answers: int) -> None:
    """Both are moved away first: one of them may be 3 or 4 itself."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (commands, answers)]
    for place, fd in zip((3, 4), high, strict=True):
        os.dup2(fd, place)
