"""The status page: one HTML document that asks ``/v1/status`` again and again, and loads nothing else.

It holds no data itself, so it needs no token; what it shows does, and then the page asks for it. The browser is told to
run exactly this script and these styles, whatever a replica's user name may contain.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

_INLINE: Final = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def document() -> bytes:
    """The page, UTF-8."""
    return _DOCUMENT


def _policy(html: bytes) -> str:
    """The Content-Security-Policy: nothing but this page's own script and styles, and its own server."""
    allowed = {
        kind.decode(): base64.b64encode(hashlib.sha256(text).digest()).decode() for kind, text in _INLINE.findall(html)
    }
    return (
        f"default-src 'none'; script-src 'sha256-{allowed['script']}'; style-src 'sha256-{allowed['style']}'; "
        "connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


_DOCUMENT: Final = resources.files(__package__).joinpath("page.html").read_bytes()

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _policy(_DOCUMENT),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""What goes with it."""
