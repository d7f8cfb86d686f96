"""Before a pod stops, a leader hands over and the Service names another; whatever goes wrong, the pod stops."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kingbus_node.kube import prestop
from kingbus_node.kube.api import ACCOUNT, ApiError, Json, ServiceApi
from kingbus_node.kube.leader_service import POD_NAME_LABEL


class Server(ThreadingHTTPServer):
    """The node's admin API and the API server in one: it notes what is asked, and answers from a table."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.role = "leader"
        self.transfer = 200
        self.selected = "orders-0"
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        it = self.server
        it.asked.append(f"GET {self.path}")
        it.tokens.add(self.headers.get("Authorization"))
        if self.path == "/v1/status":
            self.answer(200, {"role": it.role})
        else:
            selector = {POD_NAME_LABEL: it.selected}
            it.selected = "orders-1"  # the new leader has patched it by the next look
            self.answer(200, {"spec": {"selector": selector}})

    def do_POST(self) -> None:
        it = self.server
        it.asked.append(f"POST {self.path}")
        it.role = "follower"
        self.answer(it.transfer, {"leader": "orders-1"} if it.transfer == 200 else {"detail": "nobody can take over"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(server: Server, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("secret\n")
    return {
        "KINGBUS_ADMIN": server.url,
        "KINGBUS_ADMIN_TOKEN_FILE": str(tmp_path / "token"),
        "KINGBUS_LEADER_SERVICE": "orders",
        "POD_NAME": "orders-0",
    }


def test_a_leader_hands_over_and_waits_until_the_service_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        services = ServiceApi(server.url, "shop", tmp_path / "token", None)
        monkeypatch.setattr(ServiceApi, "in_pod", classmethod(lambda *_: services))
        assert prestop.main(environment(server, tmp_path)) == 0
        service = "GET /api/v1/namespaces/shop/services/orders"
        assert server.asked == ["GET /v1/status", "POST /v1/leader/transfer", service, service]
        assert server.tokens == {"Bearer secret"}


def test_a_follower_has_nothing_to_hand_over(tmp_path: Path) -> None:
    with serving() as server:
        server.role = "follower"
        assert prestop.main(environment(server, tmp_path)) == 0
        assert server.asked == ["GET /v1/status"]


def test_a_pod_stops_also_when_nobody_can_take_over(tmp_path: Path) -> None:
    told: list[str] = []
    with serving() as server:
        server.transfer = 409
        assert prestop.main(environment(server, tmp_path), told.append) == 0
    assert "nobody can take over" in told[0]
    assert "secret" not in told[0]


def test_a_pod_stops_also_when_its_node_does_not_answer(tmp_path: Path) -> None:
    told: list[str] = []
    assert prestop.main({"KINGBUS_ADMIN": "http://127.0.0.1:1"}, told.append) == 0
    assert "not handed over" in told[0]
    assert prestop.main({"KINGBUS_ADMIN_TOKEN_FILE": str(tmp_path / "none")}, told.append) == 0


def test_the_client_of_the_api_server_tells_what_was_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    gone = ServiceApi("http://127.0.0.1:1", "shop", tmp_path / "token", None)
    with pytest.raises(ApiError, match="does not answer") as caught:
        gone.get("orders")
    assert not caught.value.conflict
    with serving() as server:
        found: Json = ServiceApi(server.url, "shop", tmp_path / "token", None).get("orders")
        assert found["spec"] == {"selector": {POD_NAME_LABEL: "orders-0"}}


def test_the_account_is_found_in_a_pod_only(tmp_path: Path) -> None:
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "namespace").write_text("shop")
    found = ServiceApi.in_pod({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert found is not None
    assert (found.server, found.namespace) == ("https://[fd00::1]:443", "shop")
    assert ServiceApi.in_pod({}, tmp_path) is None
    assert ServiceApi.in_pod({"KUBERNETES_SERVICE_HOST": "a"}, tmp_path / "none") is None
    assert str(ACCOUNT).startswith("/var/run/secrets/")
