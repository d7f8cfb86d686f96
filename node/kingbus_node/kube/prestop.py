"""What a pod does before it is told to stop (``preStop``): a leader hands over, and waits until the Service knows.

``python -m kingbus_node.kube.prestop``. Without it SIGTERM would do the same; but by then the kubelet has taken the pod
out of the Services already, and replicas that connect again would find nobody for a moment. It always exits with 0: a
pod that can't hand over must stop nevertheless, and the others elect a leader.

``KINGBUS_ADMIN``, ``KINGBUS_ADMIN_CA_FILE`` and ``KINGBUS_ADMIN_TOKEN_FILE`` say where the node's admin API is.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kingbus_node.kube.api import ApiError, Json, ServiceApi
from kingbus_node.kube.leader_service import POD_NAME_LABEL

_DEADLINE = 20.0
_STEP = 0.1


class _NoAnswerError(Exception):
    """The admin API did not answer, or refused."""


def main(environ: Mapping[str, str] = os.environ, say: Callable[[str], object] = sys.stderr.write) -> int:
    """Hands over if there is something to hand over. Always 0."""
    try:
        if _admin(environ, "GET", "/v1/status").get("role") != "leader":
            return 0
        _admin(environ, "POST", "/v1/leader/transfer", {})
    except _NoAnswerError as error:
        say(f"the leadership was not handed over: {error}\n")
        return 0
    service, pod, services = environ.get("KINGBUS_LEADER_SERVICE"), environ.get("POD_NAME"), ServiceApi.in_pod(environ)
    if service and pod and services is not None and not _wait_until_elsewhere(services, service, pod):
        say(f"Service {service} still names {pod}\n")
    return 0


def _wait_until_elsewhere(services: ServiceApi, service: str, pod: str) -> bool:
    end = time.monotonic() + _DEADLINE
    while time.monotonic() < end:
        try:
            spec = services.get(service).get("spec")
        except ApiError:
            return False
        selector = spec.get("selector") if isinstance(spec, dict) else None
        if not isinstance(selector, dict) or selector.get(POD_NAME_LABEL) != pod:
            return True
        time.sleep(_STEP)
    return False


def _admin(environ: Mapping[str, str], method: str, path: str, body: Json | None = None) -> Json:
    url = urlsplit(environ.get("KINGBUS_ADMIN") or "http://127.0.0.1:8080")
    headers = {"Content-Type": "application/json"}
    connection: http.client.HTTPConnection
    try:
        token_file, ca_file = environ.get("KINGBUS_ADMIN_TOKEN_FILE"), environ.get("KINGBUS_ADMIN_CA_FILE")
        if token_file:
            headers["Authorization"] = f"Bearer {Path(token_file).read_text().strip()}"
        host = url.hostname or "localhost"
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=ca_file or None)
            connection = http.client.HTTPSConnection(host, url.port, timeout=_DEADLINE, context=context)
        else:
            connection = http.client.HTTPConnection(host, url.port, timeout=_DEADLINE)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise _NoAnswerError(f"{method} {path}: HTTP {answer.status}: {text[:300].decode('utf-8', 'replace')}")
        found: object = json.loads(text) if text else {}
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _NoAnswerError(f"{method} {path}: {error}") from error
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
