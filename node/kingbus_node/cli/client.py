"""A client of the admin API for the command line: urllib only, so that the CLI needs no extra.

The request goes straight to the address given: no proxy, no redirect, so a token goes nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

DEFAULT_URL = "http://127.0.0.1:8080"

ORDER_SECONDS = 200.0
"""How long an order may take: a member that is added has to hear of it, a new source to be asked."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class AdminClient:
    """Asks one node. Every failure is a ``click.ClickException`` with a sentence for people (exit code 1)."""

    def __init__(self, url: str, token: str | None = None, ca_file: Path | None = None, timeout: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        try:
            context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise click.ClickException(f"--ca-file {ca_file}: expected a file with certificates: {error}") from error
        self._opener = urllib.request.OpenerDirector()  # build_opener() would add proxies and redirects
        for handler in (
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            self._opener.add_handler(handler)

    def get(self, path: str) -> object:
        """The parsed JSON that ``GET path`` answers."""
        body = self._request("GET", path)
        try:
            value: object = json.loads(body)
        except ValueError as error:
            raise click.ClickException(f"{self.url}{path} did not answer JSON: is this a Kingbus node?") from error
        return value

    def send(
        self, method: str, path: str, body: Mapping[str, object] | None = None, seconds: float | None = None
    ) -> object:
        """An order: the parsed JSON of the answer, None when there is none. ``seconds``: how long it may take."""
        answer = self._request(method, path, body, seconds)
        return json.loads(answer) if answer else None

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[Callable[[int], bytes]]:
        """``GET path`` as a function that reads up to so many bytes of the answer; b"" is its end."""
        with self._open("GET", path, None, None) as response:

            def read(count: int) -> bytes:
                try:
                    piece: bytes = response.read(count)
                except (OSError, http.client.HTTPException) as error:
                    raise click.ClickException(f"{self.url}{path} broke off: {error}") from error
                return piece

            yield read

    def lines(self, method: str, path: str, seconds: float) -> Iterator[object]:
        """An answer of one JSON value in a line, each as it comes; ``seconds``: how long one may take."""
        with self._open(method, path, None, seconds) as response:
            try:
                for line in response:
                    yield json.loads(line)
            except (OSError, http.client.HTTPException) as error:
                raise click.ClickException(f"{self.url}{path} broke off: {error}") from error

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None, seconds: float | None = None
    ) -> bytes:
        with self._open(method, path, body, seconds) as response:
            try:
                answer: bytes = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise click.ClickException(f"{self.url}{path} broke off: {error}") from error
            return answer

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, body: Mapping[str, object] | None, seconds: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Accept": "application/json"}, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            response = self._opener.open(request, timeout=self._timeout if seconds is None else seconds)
        except urllib.error.HTTPError as error:
            with error:
                raise click.ClickException(f"{self.url}: {_told(error)}") from error
        except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise click.ClickException(
                f"no answer from {self.url} ({reason}): is the node running, and is --admin its address?"
            ) from error
        with response:
            yield response


def _told(error: urllib.error.HTTPError) -> str:
    """What the node's problem details say, or the bare status."""
    try:
        problem: object = json.loads(error.read())
    except (ValueError, OSError):
        problem = None
    detail = problem.get("detail") if isinstance(problem, dict) else None
    if error.code == 401:
        return "the node wants a token: set KINGBUS_ADMIN_TOKEN or give --token-file"
    return str(detail or f"HTTP {error.code} {error.reason}")


def asks_a_node(command: Callable[_P, _R]) -> Callable[..., _R]:
    """Give a command the options that say which node to ask; it gets an ``AdminClient`` as ``client``."""

    @click.option("--admin", "url", envvar="KINGBUS_ADMIN", default=DEFAULT_URL, show_default=True, metavar="URL",
                  help="The node's admin address (env KINGBUS_ADMIN).")  # fmt: skip
    @click.option("--token-file", envvar="KINGBUS_ADMIN_TOKEN_FILE", type=click.Path(dir_okay=False, path_type=Path),
                  metavar="FILE",
                  help="File with the token (env KINGBUS_ADMIN_TOKEN_FILE; itself: KINGBUS_ADMIN_TOKEN).")  # fmt: skip
    @click.option("--ca-file", envvar="KINGBUS_ADMIN_CA_FILE", type=click.Path(dir_okay=False, path_type=Path),
                  metavar="FILE",
                  help="Verifies an https address, instead of the system's (env KINGBUS_ADMIN_CA_FILE).")  # fmt: skip
    @click.pass_context
    @functools.wraps(command)
    def wrapped(
        context: click.Context, /, url: str, token_file: Path | None, ca_file: Path | None, **options: object
    ) -> _R:
        if not url.startswith(("http://", "https://")):
            raise click.BadParameter("expected an address such as http://127.0.0.1:8080", param_hint="--admin")
        client = AdminClient(url, _token(token_file), ca_file)
        return context.invoke(command, client=client, **options)

    return wrapped


def _token(token_file: Path | None) -> str | None:
    if token_file is None:
        return os.environ.get("KINGBUS_ADMIN_TOKEN") or None
    try:
        return token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(
            f"--token-file {token_file}: expected a text file with the token: {error}"
        ) from error
