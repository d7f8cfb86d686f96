"""The admin API as a client sees it: a real server on a free port, asked with urllib."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from unit.admin.fakes import STATUS, FakeControl, FakeNode

from kingbus_node.admin.doors import CONNECTIONS
from kingbus_node.admin.http import AdminError, AdminServer
from kingbus_node.admin.metrics import Metrics
from kingbus_node.admin.views import Readiness, Refused, Source
from kingbus_node.config import Address, AdminSettings, AdminTls


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@contextmanager
def serving(
    node: FakeNode,
    token_file: Path | None = None,
    control: FakeControl | None = None,
    name: str = "node-1",
    tls: AdminTls | None = None,
    advertise: str | None = None,
) -> Iterator[AdminServer]:
    metrics = Metrics("1.2.3")
    metrics.attach(node)
    listen = Address("127.0.0.1", 0)
    settings = AdminSettings(listen=listen, token_file=token_file, tls=tls or AdminTls(), advertise=advertise)
    server = AdminServer(settings, name, node, control, metrics)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def ask(
    server: AdminServer,
    path: str,
    token: str | None = None,
    method: str = "GET",
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    sent = {"Authorization": f"Bearer {token}"} if token is not None else {}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        sent["Content-Type"] = "application/json"
    url = f"http://{server.address}{path}"
    request = urllib.request.Request(url, data, {**sent, **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Answer(
                response.status, response.headers["Content-Type"] or "", response.read(), dict(response.headers)
            )
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers["Content-Type"], error.read(), dict(error.headers))


def test_status_has_the_documented_shape() -> None:
    with serving(FakeNode()) as server:
        status = ask(server, "/v1/status").json
    documented = {
        "node": str, "role": str, "term": int, "leader": str, "quorum": bool, "commit_index": int, "last_index": int,
        "members": list, "source": dict, "gtid": dict, "replicas": list, "storage": dict,
    }  # fmt: skip
    assert {name: type(status[name]) for name in documented} == documented
    members, source, replicas, storage = (status[name] for name in ("members", "source", "replicas", "storage"))
    assert isinstance(members, list)
    assert set(members[0]) >= {"name", "address", "role", "match_index", "connected"}
    assert isinstance(source, dict)
    assert set(source) >= {"endpoint", "state", "error", "semi_sync", "lag_seconds", "file", "position"}
    assert status["gtid"] == {"executed": "u:1-6", "purged": ""}
    assert isinstance(replicas, list)
    assert set(replicas[0]) >= {
        "id", "server_id", "uuid", "host", "user", "version", "file", "position", "gtid_sent", "lag_bytes",
        "lag_seconds", "node",
    }  # fmt: skip
    assert isinstance(storage, dict)
    assert set(storage) >= {"segments", "bytes", "oldest", "free_bytes"}


def test_ready_is_200_and_not_ready_says_why() -> None:
    node = FakeNode()
    with serving(node) as server:
        assert (ask(server, "/livez").status, ask(server, "/readyz").status) == (200, 200)
        node.ready = Readiness(False, ("nothing was committed yet", "the serve workers are starting"))
        answer = ask(server, "/readyz")
        assert ask(server, "/livez").status == 200
    assert answer.status == 503
    assert answer.kind.startswith("application/problem+json")
    assert answer.json["reasons"] == ["nothing was committed yet", "the serve workers are starting"]
    assert "nothing was committed yet" in str(answer.json["detail"])


@pytest.mark.parametrize("path", ["/v1/status", "/v1/replicas", "/v1/binlogs"])
def test_what_shows_users_or_addresses_needs_the_token(path: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with serving(FakeNode(), token) as server:
        refused = ask(server, path)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert b"10." not in refused.body
        assert ask(server, path, "wrong").status == 401
        assert ask(server, path, "s3cret").status == 200
        token.write_text("rotated")
        assert ask(server, path, "s3cret").status == 401
        assert ask(server, path, "rotated").status == 200


def test_probes_and_metrics_need_no_token_and_tell_no_user_or_address(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    with serving(FakeNode(), token) as server:
        answers = [ask(server, path) for path in ("/livez", "/readyz", "/metrics")]
    assert [answer.status for answer in answers] == [200, 200, 200]
    told = b"".join(answer.body for answer in answers)
    assert b"10.1.2.3" not in told
    assert b"10.9.9.9" not in told
    assert b'repl"' not in told


def test_metrics_hold_what_the_snapshot_says() -> None:
    with serving(FakeNode()) as server:
        answer = ask(server, "/metrics")
    lines = answer.body.decode().splitlines()
    for line in (
        "kingbus_raft_term 3.0",
        "kingbus_raft_is_leader 1.0",
        "kingbus_source_events_total 7.0",
        "kingbus_replicas 1.0",
        'kingbus_replica_lag_bytes{replica="w0-7"} 17.0',
        'kingbus_replica_sent_bytes_total{replica="w0-7"} 4096.0',
        'kingbus_replica_errors_total{code="1236"} 2.0',
        "kingbus_store_oldest_timestamp_seconds 1.7e+09",
        "kingbus_store_free_bytes 1e+09",
        "kingbus_store_capacity_bytes 4e+09",
        'kingbus_source_state{state="connected"} 1.0',
        'kingbus_source_state{state="refused"} 0.0',
        "kingbus_fsync_seconds_count 0.0",
    ):
        assert line in lines
    assert any(line.startswith('kingbus_build_info{python="') for line in lines)
    series = [line.split(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_what_is_not_known_has_no_sample() -> None:
    node = FakeNode(
        replace(STATUS, source=Source(None, "connecting", "no route", False, None, None, None), replicas=[])
    )
    with serving(node) as server:
        text = ask(server, "/metrics").body.decode()
    assert "\nkingbus_source_lag_seconds " not in text
    assert "\nkingbus_source_connected 0.0" in text


def test_errors_are_problem_details() -> None:
    node = FakeNode()
    with serving(node) as server:
        missing, method = ask(server, "/v1/nothing"), ask(server, "/v1/status", method="POST")
        node.broken = True
        broken = ask(server, "/v1/status")
    assert [answer.status for answer in (missing, method, broken)] == [404, 405, 500]
    for answer in (missing, method, broken):
        assert answer.kind.startswith("application/problem+json")
        assert answer.json["status"] == answer.status
        assert set(answer.json) >= {"type", "title", "status", "detail"}
    assert "GET" in method.headers["Allow"]
    assert b"hunter2" not in broken.body


def test_a_replica_is_killed_by_its_id() -> None:
    node = FakeNode()
    with serving(node) as server:
        assert ask(server, "/v1/replicas/w0-7", method="DELETE").status == 204
        assert ask(server, "/v1/replicas/w9-9", method="DELETE").status == 404
    assert node.killed == ["w0-7", "w9-9"]


def test_the_description_names_every_path_and_resolves_every_reference() -> None:
    with serving(FakeNode()) as server:
        text = ask(server, "/openapi.json").body.decode()
    described = json.loads(text)
    assert {"/livez", "/readyz", "/metrics", "/v1/status", "/v1/replicas", "/v1/replicas/{id}"} <= set(
        described["paths"]
    )
    assert "$defs" not in text
    for part in text.split('"$ref": "')[1:]:
        name = part.split('"')[0].removeprefix("#/components/schemas/")
        assert name in described["components"]["schemas"]


ORDERS = [
    ("POST", "/v1/members", {"address": "10.0.0.4:7401"}, ("add", "", "10.0.0.4:7401", "voter", 0), 200),
    (
        "POST", "/v1/members", {"address": "h:1", "name": "n", "role": "witness", "priority": -1},
        ("add", "n", "h:1", "witness", -1), 200,
    ),
    ("DELETE", "/v1/members/node-2", None, ("remove", "node-2"), 204),
    ("POST", "/v1/leader/transfer", {}, ("transfer", None), 200),
    ("POST", "/v1/leader/transfer", {"to": "node-3"}, ("transfer", "node-3"), 200),
    ("PUT", "/v1/source", {"semi_sync": False}, ("set", {"semi_sync": False}), 200),
    ("POST", "/v1/source/stop", None, ("stop",), 204),
    ("POST", "/v1/source/start", None, ("start",), 204),
    ("POST", "/v1/source/switch", {"endpoints": ["db2:1"]}, ("switch", {"endpoints": ["db2:1"]}, False), 200),
    (
        "POST", "/v1/source/switch", {"endpoints": ["db2:1"], "force": True},
        ("switch", {"endpoints": ["db2:1"]}, True), 200,
    ),
    ("POST", "/v1/binlogs/purge", {"to": "b.000002"}, ("purge", "b.000002", None), 200),
    ("POST", "/v1/binlogs/purge", {"before": 1.5}, ("purge", None, 1.5), 200),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "order", "status"), ORDERS)
def test_orders_reach_the_node(method: str, path: str, body: object, order: tuple[object, ...], status: int) -> None:
    control = FakeControl()
    with serving(FakeNode(), control=control) as server:
        answer = ask(server, path, method=method, body=body)
    assert answer.status == status
    assert control.told[0] == order


@pytest.mark.parametrize(("method", "path", "body"), [order[:3] for order in ORDERS])
def test_orders_need_the_token(method: str, path: str, body: object, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    control = FakeControl()
    with serving(FakeNode(), tmp_path / "token", control) as server:
        for token in (None, "", "s3cre", "s3cret1", "\xfc"):
            assert ask(server, path, token, method, body).status == 401
        assert control.told == []
        assert ask(server, path, "s3cret", method, body).status < 300


@pytest.mark.parametrize(("method", "path", "body"), [order[:3] for order in ORDERS])
def test_a_page_of_another_site_cannot_give_orders(method: str, path: str, body: object) -> None:
    control = FakeControl()
    with serving(FakeNode(), control=control) as server:
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
            assert ask(server, path, method=method, body=body, headers=headers).status == 403
        assert control.told == []
        own = {"Origin": f"http://{server.address}", "Sec-Fetch-Site": "same-origin"}
        assert ask(server, path, method=method, body=body, headers=own).status < 300


def test_a_site_whose_name_leads_to_this_machine_is_another_site_all_the_same(tmp_path: Path) -> None:
    """DNS rebinding: the browser takes it for one site, and says so."""
    control = FakeControl()
    with serving(FakeNode(), control=control) as server:
        port = server.address.port
        theirs = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
        same = {"Sec-Fetch-Site": "same-origin", **theirs}
        assert ask(server, "/v1/source/stop", method="POST", headers=same).status == 403
        answer = ask(server, "/v1/status", headers={"Host": theirs["Host"]})
        assert (answer.status, "admin.token_file" in str(answer.json["detail"])) == (403, True)
        assert control.told == []
        for own in (f"localhost:{port}", f"LocalHost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert ask(server, "/v1/status", headers={"Host": own}).status == 200, own
        assert ask(server, "/metrics", headers={"Host": "kingbus.example"}).status == 200
    with serving(FakeNode(), advertise="http://Node-1.example:8080") as server:
        assert ask(server, "/v1/status", headers={"Host": "node-1.example:8080"}).status == 200
        assert ask(server, "/v1/status", headers={"Host": "node-1.example:8081"}).status == 403
    token = tmp_path / "token"
    token.write_text("s3cret")
    with serving(FakeNode(), token) as server:
        assert ask(server, "/v1/status", "s3cret", headers={"Host": "kingbus.example"}).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/members", {}, 422, "address: Field required"),
        ("/v1/members", {"address": "a:1", "role": "king"}, 422, "role: Input should be"),
        ("/v1/members", {"address": "a:1", "password": "hunter2"}, 422, "password: unknown key"),
        ("/v1/members", [], 422, "Input should be"),
        ("/v1/binlogs/purge", {}, 422, "expected one of to and before"),
        ("/v1/binlogs/purge", {"to": "b", "before": 1}, 422, "expected one of to and before"),
        ("/v1/source/switch", {}, 422, "endpoints: Field required"),
        ("/v1/source/switch", {"endpoints": [], "force": True}, 422, "endpoints: "),
    ],
)
def test_orders_that_make_no_sense_are_refused(path: str, body: object, status: int, told: str) -> None:
    control = FakeControl()
    with serving(FakeNode(), control=control) as server:
        answer = ask(server, path, method="POST", body=body)
    assert (answer.status, control.told) == (status, [])
    assert answer.kind.startswith("application/problem+json")
    assert told in str(answer.json["detail"])
    assert b"hunter2" not in answer.body


def test_a_body_must_be_json_and_say_so() -> None:
    with serving(FakeNode(), control=FakeControl()) as server:
        said = ask(
            server, "/v1/members", method="POST", body={"address": "a:1"}, headers={"Content-Type": "text/plain"}
        )
        assert said.status == 415
        request = urllib.request.Request(
            f"http://{server.address}/v1/members", b"{", {"Content-Type": "application/json"}, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        with refused.value:
            assert refused.value.code == 400
        huge = ask(server, "/v1/members", method="POST", body={"address": "a" * 100_000})
        assert (huge.status, huge.kind.split(";")[0]) == (413, "application/problem+json")


def test_a_refusal_is_told_with_its_facts() -> None:
    control = FakeControl(refusal=Refused(409, "it lacks 2 transactions", missing="u:7-8"))
    with serving(FakeNode(), control=control) as server:
        answer = ask(server, "/v1/source/switch", method="POST", body={"endpoints": ["db2:1"]})
    assert answer.status == 409
    assert (answer.json["detail"], answer.json["missing"]) == ("it lacks 2 transactions", "u:7-8")


def test_the_source_is_shown_with_its_settings_and_without_a_secret() -> None:
    with serving(FakeNode(), control=FakeControl()) as server:
        source = ask(server, "/v1/source").json
    assert isinstance(source["settings"], dict)
    assert source["settings"]["endpoints"] == ["10.9.9.9:3306"]
    assert isinstance(source["status"], dict)
    assert source["status"]["state"] == "connected"
    assert "password" not in json.dumps(source)


def test_a_binlog_file_is_streamed() -> None:
    with serving(FakeNode()) as server:
        whole, later = ask(server, "/v1/binlogs/binlog.000001"), ask(server, "/v1/binlogs/binlog.000001?from=156")
        wrong, missing = ask(server, "/v1/binlogs/binlog.000001?from=-1"), ask(server, "/v1/binlogs/no%2F..")
    assert (whole.status, whole.kind, whole.body) == (200, "application/octet-stream", b"\xfebin4")
    assert later.body == b"\xfebin156"
    assert (wrong.status, missing.status) == (400, 404)


def test_the_page_loads_nothing_and_allows_nothing_else() -> None:
    with serving(FakeNode()) as server:
        page = ask(server, "/")
    text = page.body.decode()
    assert page.status == 200
    assert page.kind == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    for outside in ("http://", "https://", "//cdn", "@import", "innerHTML", " style=", " onclick="):
        assert outside not in text
    assert STATUS.node not in text


def test_probes_may_be_asked_with_head() -> None:
    with serving(FakeNode(ready=Readiness(False, ("because",)))) as server:
        assert [ask(server, path, method="HEAD").status for path in ("/livez", "/readyz", "/")] == [200, 503, 200]


def test_a_taken_port_is_told_with_the_key_that_chose_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(AdminError, match=rf"admin\.listen {listen}: .*in use"):
            AdminServer(AdminSettings(listen=listen), "node-1", FakeNode(), None, Metrics("1")).start()


def test_an_empty_token_file_is_refused_at_start(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("\n")
    settings = AdminSettings(listen=Address("127.0.0.1", 0), token_file=token)
    with pytest.raises(AdminError, match="expected a token in the file, found nothing"):
        AdminServer(settings, "node-1", FakeNode(), None, Metrics("1")).start()


def test_https_is_served_when_configured(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    settings = AdminSettings.model_validate({"listen": "127.0.0.1:0", "tls": {"cert": str(cert), "key": str(key)}})
    server = AdminServer(settings, "node-1", FakeNode(), None, Metrics("1"))
    server.start()
    try:
        context = ssl.create_default_context(cafile=str(cert))
        with urllib.request.urlopen(f"https://{server.address}/livez", timeout=10, context=context) as response:
            assert response.status == 200
    finally:
        server.stop()


def self_signed(folder: Path) -> tuple[Path, Path]:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kingbus test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


class StandingControl(FakeControl):
    """Its orders wait, as for a quorum that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.waits = threading.Event(), threading.Event()

    def stop_source(self) -> None:
        self.waits.set()
        assert self.go_on.wait(60)


def test_orders_that_wait_keep_no_probe_and_no_look_waiting() -> None:
    """A node without a quorum is alive. Whose orders to it wait must not have it restarted by its liveness probe."""
    control = StandingControl()
    with serving(FakeNode(), control=control) as server, ThreadPoolExecutor(60) as clients:
        orders = [clients.submit(ask, server, "/v1/source/stop", method="POST") for _ in range(50)]
        looks = {path: clients.submit(ask, server, path) for path in ("/livez", "/readyz", "/metrics", "/v1/source")}
        try:
            for path, look in looks.items():
                assert look.result(20).status == 200, path
            assert not any(order.done() for order in orders)
        finally:
            control.go_on.set()
        assert {order.result(60).status for order in orders} == {204}


def waiting(server: AdminServer, stack: ExitStack, context: ssl.SSLContext | None = None) -> socket.socket:
    """A connection that the server knows, since it has answered there, and that asks nothing more."""
    made = stack.enter_context(socket.create_connection((server.address.host, server.address.port), timeout=30))
    if context is not None:
        made = stack.enter_context(context.wrap_socket(made))
    made.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while b"true}" not in answer:
        piece = made.recv(4096)
        assert piece, answer
        answer += piece
    return made


@pytest.mark.parametrize("encrypted", [False, True])
def test_connections_are_bounded_and_the_oldest_that_asks_nothing_has_to_go(encrypted: bool, tmp_path: Path) -> None:
    """Anybody who reaches the port may open some, and each takes a descriptor of the process that holds the log."""
    cert, key = self_signed(tmp_path)
    context = ssl._create_unverified_context() if encrypted else None
    with serving(FakeNode(), tls=AdminTls(cert=cert, key=key) if encrypted else None) as server, ExitStack() as stack:
        idle = [waiting(server, stack, context) for _ in range(CONNECTIONS + 20)]
        assert [one.recv(1) for one in idle[:20]] == [b""] * 20
        idle[20].sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[20].recv(12) == b"HTTP/1.1 200"


def test_a_connection_whose_request_is_being_answered_stays() -> None:
    control = StandingControl()
    with serving(FakeNode(), control=control) as server, ExitStack() as stack, ThreadPoolExecutor(1) as clients:
        order = clients.submit(ask, server, "/v1/source/stop", method="POST")
        try:
            assert control.waits.wait(60)
            idle = [waiting(server, stack) for _ in range(CONNECTIONS + 1)]
            assert [one.recv(1) for one in idle[:2]] == [b"", b""]
        finally:
            control.go_on.set()
        assert order.result(60).status == 204
