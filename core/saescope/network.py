"""Whether the network can be used now: known within a second and remembered, so that a machine
without one does not wait anew in every call. Standard library only."""

import socket
import threading
import time
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

TEST_S = 1.0
"""How long a host may take to accept a connection."""
REMEMBERED_S = 180.0
"""How long the answer counts, until somebody asks for a new one."""
_PORTS = {"http": 80, "https": 443}


class Seen(NamedTuple):
    """Whether a host took a connection, and when it was asked."""

    reached: bool
    at: float


class Unreached(ConnectionError):
    """A host that took no connection; its message says which."""


seen: dict[tuple[str, int], Seen] = {}
"""What was found out, by host and port."""


def reachable(url: str, *, again: bool = False) -> bool:
    """Whether the host of a URL, or the proxy on the way to it, takes a connection; `again` asks
    anew where the answer is known."""
    place = first_hop(url)
    known = seen.get(place)
    if again or known is None or time.monotonic() - known.at > REMEMBERED_S:
        known = seen[place] = Seen(connects(*place), time.monotonic())
    return known.reached


def require(url: str) -> None:
    """Raise Unreached where `reachable` says no."""
    if not reachable(url):
        raise Unreached(f"{first_hop(url)[0]} took no connection within {TEST_S:g} s")


def first_hop(url: str) -> tuple[str, int]:
    """Host and port that a request for this URL connects to."""
    asked = urlsplit(url)
    host = asked.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(asked.scheme) or proxies.get("all")
    if proxy and host and not proxy_bypass(host):
        asked = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return asked.hostname or host, asked.port or _PORTS.get(asked.scheme, 443)


def connects(host: str, port: int) -> bool:
    """Whether a host takes a connection in time; asked in a thread of its own, since no timeout
    holds for looking a name up."""
    reached = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), TEST_S).close()
        except (OSError, UnicodeError):
            return
        reached.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(TEST_S)
    return reached.is_set()
