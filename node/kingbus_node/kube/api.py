"""Two calls of the Kubernetes API: read a Service, patch a Service. With the pod's own ServiceAccount.

Kubernetes documentation, "Accessing the Kubernetes API from a Pod": the address is in the environment, token and CA are
mounted. The token file is read for each call, because the kubelet replaces it before it ends.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = 3.0

Json = dict[str, object]


class ApiError(Exception):
    """The API server refused (``status`` as HTTP has it) or could not be reached (0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if status else message)
        self.status = status

    @property
    def conflict(self) -> bool:
        """A `test` of the patch failed or the object changed meanwhile: look again."""
        return self.status in (409, 422)


@dataclass(frozen=True, slots=True)
class ServiceApi:
    """The Services of one namespace."""

    server: str
    namespace: str
    token_file: Path
    ca_file: Path | None

    @classmethod
    def in_pod(cls, environ: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> Self | None:
        """That of the pod that we run in; None outside of Kubernetes, or without a mounted token."""
        host = environ.get("KUBERNETES_SERVICE_HOST")
        if not host or not (account / "token").is_file():
            return None
        address = f"[{host}]" if ":" in host else host
        namespace = environ.get("POD_NAMESPACE") or (account / "namespace").read_text().strip()
        server = f"https://{address}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}"
        return cls(server, namespace, account / "token", account / "ca.crt")

    def get(self, name: str) -> Json:
        """The Service. ApiError."""
        return self._call("GET", name, None)

    def patch(self, name: str, operations: Sequence[Json], manager: str) -> Json:
        """A JSON patch (RFC 6902): all of it, or nothing. ApiError."""
        return self._call("PATCH", f"{quote(name)}?fieldManager={quote(manager)}", operations)

    def _call(self, method: str, rest: str, body: object) -> Json:
        url = urlsplit(self.server)
        assert url.hostname is not None
        connection: http.client.HTTPConnection
        try:
            if url.scheme == "https":
                context = ssl.create_default_context(cafile=self.ca_file)
                connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=_TIMEOUT, context=context)
            else:
                connection = http.client.HTTPConnection(url.hostname, url.port, timeout=_TIMEOUT)
            headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}", "Accept": "application/json"}
            data = None
            if body is not None:
                headers["Content-Type"] = "application/json-patch+json"
                data = json.dumps(body)
            path = f"/api/v1/namespaces/{quote(self.namespace)}/services/{rest}"
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read().decode("utf-8", "replace")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"the Kubernetes API at {self.server} does not answer: {error}") from error
        if answer.status >= 300:
            raise ApiError(answer.status, _message(text))
        try:
            found: Json = json.loads(text)
        except ValueError as error:
            raise ApiError(0, f"{self.server} did not answer JSON: is it the Kubernetes API?") from error
        return found


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
