"""Who may ask the admin API: the bearer token, and no page of another site.

Rules:

1. Everything below ``/v1`` shows user names or addresses, or changes state: it needs the token when one is configured.
   Without one the server only listens on a loopback address (the configuration sees to it).
2. The token file is read again when it has changed, so a rotated token needs no restart.
3. A browser on this machine reaches loopback for any site that it shows. So what changes state is refused when the
   browser says that another site asks (``Sec-Fetch-Site``, ``Origin``).
4. A site can have its own name resolve to loopback, and then it is "the same site" for the browser. So without a token
   the name that is asked for (``Host``) must be an address, ``localhost`` or the one in ``admin.advertise``.
"""

from __future__ import annotations

import hmac
import ipaddress
import threading
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from kingbus_node.admin.problems import problem
from kingbus_node.util.files import Stamp, stamp

PROTECTED = "/v1/"
"""Paths that begin so need the token."""


_UNKNOWN_NAME = (
    "without a token this node only answers to addresses, to localhost and to what admin.advertise names: ask for one "
    "of these, or set admin.token_file"
)


class TokenError(Exception):
    """The token file cannot be used; the text is for people."""


class TokenFile:
    """The token in a file, followed when the file changes. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: tuple[Stamp, str] | None = None

    def read(self) -> str:
        """The token now. ``TokenError`` if the file cannot be read or is empty."""
        try:
            found = stamp((self._path,))
            with self._lock:
                if self._known is None or self._known[0] != found:
                    self._known = (found, self._path.read_text(encoding="utf-8").strip())
                token = self._known[1]
        except (OSError, UnicodeDecodeError) as error:
            raise TokenError(
                f"admin.token_file {self._path}: expected a text file with the token in it: {error}"
            ) from error
        if not token:
            raise TokenError(f"admin.token_file {self._path}: expected a token in the file, found nothing")
        return token


def refusal(request: web.Request, token: TokenFile | None, advertised: str = "") -> web.Response | None:
    """Why this request is not answered, or None: it may pass. Reads the token file.

    `advertised`: host and port by which others reach this node, without a token.
    """
    if request.method not in ("GET", "HEAD") and _is_cross_site(request):
        return problem(HTTPStatus.FORBIDDEN, "a page of another site may not change anything here")
    if not request.path.startswith(PROTECTED):
        return None
    if token is None:
        return None if _asks_us(request, advertised) else problem(HTTPStatus.FORBIDDEN, _UNKNOWN_NAME)
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    try:
        expected = token.read()
    except TokenError as error:
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    # Compared as bytes: compare_digest takes the same time wherever they differ, and refuses text beyond ASCII.
    if scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode(errors="surrogateescape"), expected.encode()
    ):
        return None
    response = problem(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Bearer <token>")
    response.headers["WWW-Authenticate"] = 'Bearer realm="kingbus"'
    return response


def _asks_us(request: web.Request, advertised: str) -> bool:
    given = request.headers.get("Host")
    if given is None:
        return True  # HTTP/1.0, which no browser speaks
    if given.lower() == advertised.lower():
        return True
    try:
        host = urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_cross_site(request: web.Request) -> bool:
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host
