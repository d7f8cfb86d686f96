"""The command line against a small HTTP server that answers like a node."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from kingbus_node.cli import main
from kingbus_node.cli.output import seconds, size

STATUS: dict[str, object] = {
    "node": "node-1",
    "role": "leader",
    "term": 3,
    "leader": "node-1",
    "quorum": True,
    "ready": True,
    "commit_index": 41,
    "last_index": 42,
    "members": [
        {"name": "node-1", "address": "127.0.0.1:7401", "role": "leader", "match_index": 42, "connected": True},
    ],
    "source": {
        "endpoint": "db:3306", "state": "connected", "error": None, "semi_sync": True, "lag_seconds": 0.0,
        "file": "binlog.000002", "position": 1017, "version": "9.7.4",
    },
    "gtid": {"executed": ",\n".join(f"3e11fa47-71ca-11e1-9e33-c80aa942956{i}:1-5" for i in range(5)), "purged": ""},
    "replicas": [
        {
            "id": "w0-7", "server_id": 2, "uuid": "u", "host": "10.1.2.3:40112", "user": "repl",
            "version": "9.7.4", "file": "binlog.000002", "position": 1000, "gtid_sent": "u:1-5", "lag_bytes": 17,
            "lag_seconds": 0.5, "node": "node-1",
        }
    ],
    "storage": {"segments": 2, "bytes": 123456, "oldest": 1700000000, "free_bytes": 10**9},
}  # fmt: skip


class Admin:
    """What the fake node answers, and what it was asked."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.asked: list[tuple[str, str]] = []
        admin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                admin.asked.append(("GET", self.path))
                if admin.token is not None and self.headers["Authorization"] != f"Bearer {admin.token}":
                    self._answer(401, {"detail": "no"})
                elif self.path == "/v1/status":
                    self._answer(200, STATUS)
                elif self.path == "/v1/replicas":
                    self._answer(200, STATUS["replicas"])
                elif self.path == "/v1/binlogs":
                    self._answer(200, [{"name": "binlog.000001", "size": 500, "closed": True}])
                elif self.path == "/elsewhere/v1/status":
                    self.send_response(302)
                    self.send_header("Location", "/v1/status")
                    self.end_headers()
                else:
                    self._answer(404, {"detail": "there is nothing here"})

            def do_DELETE(self) -> None:
                admin.asked.append(("DELETE", self.path))
                if self.path == "/v1/replicas/w0-7":
                    self.send_response(204)
                    self.end_headers()
                else:
                    self._answer(404, {"detail": "no replica 'x' is connected to this node"})

            def _answer(self, status: int, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Quiet: what was asked is in ``asked``."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def admin() -> Iterator[Admin]:
    admin = Admin()
    thread = threading.Thread(target=admin.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield admin
    admin.server.shutdown()
    thread.join()
    admin.server.server_close()


def kingbus(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, arguments)


def test_status_as_json_and_yaml_is_the_answer_of_the_node(admin: Admin) -> None:
    assert json.loads(kingbus("status", "--admin", admin.url, "-o", "json").stdout) == STATUS
    assert yaml.safe_load(kingbus("status", "--admin", admin.url, "-o", "yaml").stdout) == STATUS


def test_status_for_people_is_plain_when_piped_and_shortens_nothing(admin: Admin) -> None:
    result = kingbus("status", KINGBUS_ADMIN=admin.url)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout
    assert "node-1, leader of term 3" in result.stdout
    assert "db:3306 (9.7.4), connected, semi-sync on, lag 0.0 s" in result.stdout
    assert "3e11fa47-71ca-11e1-9e33-c80aa9429564:1-5" in result.stdout
    assert "10.1.2.3:40112" in result.stdout


def test_the_environment_and_the_option_say_which_node(admin: Admin) -> None:
    assert kingbus("status", KINGBUS_ADMIN=admin.url).exit_code == 0
    assert kingbus("status", "--admin", admin.url, KINGBUS_ADMIN="http://127.0.0.1:1").exit_code == 0


def test_lists_are_tables_with_one_row_each(admin: Admin) -> None:
    replicas = kingbus("replicas", "list", "--admin", admin.url).stdout.splitlines()
    assert replicas[0].split()[:2] == ["REPLICA", "SERVER"]
    assert replicas[1].split()[:2] == ["w0-7", "2"]
    binlogs = kingbus("binlogs", "list", "--admin", admin.url).stdout.splitlines()
    assert [line.split() for line in binlogs] == [["FILE", "SIZE", "CLOSED"], ["binlog.000001", "500", "yes"]]


def test_a_replica_is_killed_by_id_and_an_unknown_one_is_an_error(admin: Admin) -> None:
    assert kingbus("replicas", "kill", "w0-7", "--admin", admin.url).exit_code == 0
    result = kingbus("replicas", "kill", "a/b", "--admin", admin.url)
    assert result.exit_code == 1
    assert "no replica 'x' is connected to this node" in result.stderr
    assert admin.asked[-1] == ("DELETE", "/v1/replicas/a%2Fb")


def test_the_token_comes_from_the_environment_or_a_file(admin: Admin, tmp_path: Path) -> None:
    admin.token = "s3cret"
    (tmp_path / "token").write_text("s3cret\n")
    refused = kingbus("status", "--admin", admin.url)
    assert refused.exit_code == 1
    assert "set KINGBUS_ADMIN_TOKEN or give --token-file" in refused.stderr
    assert kingbus("status", "--admin", admin.url, KINGBUS_ADMIN_TOKEN="s3cret").exit_code == 0
    assert kingbus("status", "--admin", admin.url, "--token-file", str(tmp_path / "token")).exit_code == 0
    assert kingbus("status", "--admin", admin.url, KINGBUS_ADMIN_TOKEN_FILE=str(tmp_path / "token")).exit_code == 0
    missing = kingbus("status", "--admin", admin.url, "--token-file", str(tmp_path / "gone"))
    assert missing.exit_code == 1
    assert "--token-file" in missing.stderr


def test_nobody_at_the_address_is_exit_code_1_and_one_sentence_on_stderr() -> None:
    result = kingbus("status", "--admin", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: no answer from http://127.0.0.1:1 ")
    assert result.stderr.count("\n") == 1


def test_a_token_is_not_carried_to_where_a_redirect_points(admin: Admin) -> None:
    result = kingbus("status", "--admin", admin.url + "/elsewhere", KINGBUS_ADMIN_TOKEN="s3cret")
    assert result.exit_code == 1
    assert admin.asked == [("GET", "/elsewhere/v1/status")]


@pytest.mark.parametrize(
    "arguments",
    [("status", "--nope"), ("nope",), ("node",), ("demo", "--flavor", "oracle"), ("status", "--admin", "127.0.0.1:1")],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = kingbus(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_configuration_that_can_not_be_used_is_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "kingbus.yaml"
    path.write_text("source: {endpoints: ['db:3306'], user: repl, password: hunter2}\n")
    result = kingbus("node", "--config", str(path))
    assert result.exit_code == 1
    assert "source.password: unknown key; did you mean password_file?" in result.stderr
    assert "hunter2" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 2**29, "1.5 GiB"), (None, "-"), (2**60, "1048576.0 TiB")],
)
def test_sizes_are_for_people(value: object, shown: str) -> None:
    assert size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.25, "0.2 s"), (119, "119.0 s"), (600, "10.0 min"), (7200, "2.0 h"), (864000, "10.0 d"), ("x", "-")],
)
def test_durations_are_for_people(value: object, shown: str) -> None:
    assert seconds(value) == shown
