"""The servers' own clients and replicas, and python-mysql-replication, log in to a node in every way, also over TLS."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import WriteRowsEvent
from servers.chain import Chain
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.demo.instance import Server
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import Upstream, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor, ServerBinaries, ensure
from kingbus_node.wire.auth import native_hash, sha256_crypt

PASSWORD = "replpw, with more"
SALT = bytes(range(0x30, 0x44))
STORED = b"$A$005$" + SALT + sha256_crypt(PASSWORD.encode(), SALT, 5000)
USERS: list[dict[str, object]] = [
    {"user": "both", "password": PASSWORD},
    {"user": "sha2", "password": PASSWORD, "plugins": ["caching_sha2_password"]},
    {"user": "native", "password": PASSWORD, "plugins": ["mysql_native_password"]},
    {"user": "stored_sha2", "auth_string": "0x" + STORED.hex()},
    {"user": "stored_native", "auth_string": "*" + native_hash(PASSWORD.encode()).hex().upper()},
]
SHA2 = ("both", "sha2", "stored_sha2")
NATIVE = ("both", "native", "stored_native")


@dataclass(frozen=True, slots=True)
class Setting:
    """A source with a row, and a node that knows many users."""

    source: Server
    node: NodeProcess
    pool: Pool

    def run(self, binaries: ServerBinaries, program: str, *arguments: str) -> str:
        """What a client says, without the password warning; with the exit code when it fails."""
        command = [
            str(binaries.binlog.parent / program),
            "--no-defaults",
            "-h127.0.0.1",
            f"-P{self.node.port}",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        errors = "".join(line for line in done.stderr.splitlines(keepends=True) if "[Warning]" not in line)
        return done.stdout + errors + (f"(exit code {done.returncode})" if done.returncode else "")

    def ask(self, binaries: ServerBinaries, user: str, *options: str, password: str = PASSWORD) -> str:
        """Log in with the command line client and ask who one is."""
        program = "mysql" if binaries.flavor is Flavor.MYSQL else "mariadb"
        return self.run(binaries, program, *options, f"-u{user}", f"-p{password}", "-NBe", "SELECT USER()").strip()


def start(pool: Pool, users: Path, flavor: Flavor) -> Setting:
    source = pool.server("mysql-9.7" if flavor is Flavor.MYSQL else "mariadb-10.11")
    Workload(source).create().everything()
    node = pool.node(source, {"serve": {"users_file": str(users)}})
    Chain(pool, Workload(source), node).wait_node()
    return Setting(source, node, pool)


@pytest.fixture(scope="module")
def settings(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[Flavor, Setting]:
    users = tmp_path_factory.mktemp("users") / "users.yaml"
    users.write_text(yaml.safe_dump(USERS))
    return {flavor: start(module_pool, users, flavor) for flavor in Flavor}


@pytest.fixture(params=list(Flavor), ids=str)
def setting(request: pytest.FixtureRequest, settings: dict[Flavor, Setting]) -> Setting:
    return settings[request.param]


@pytest.mark.parametrize("user", SHA2)
@pytest.mark.parametrize("tls", ["DISABLED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
def test_the_mysql_client_logs_in(setting: Setting, user: str, tls: str) -> None:
    options = [f"--ssl-mode={tls}", "--get-server-public-key"]
    if tls.startswith("VERIFY"):
        options.append(f"--ssl-ca={setting.node.data / 'keys' / 'ca.pem'}")
    assert setting.ask(ensure("mysql-9.7"), user, *options) == f"{user}@127.0.0.1"


@pytest.mark.parametrize("release", ["mariadb-10.11", "mariadb-11.8"])
@pytest.mark.parametrize("user", [str(user["user"]) for user in USERS])
@pytest.mark.parametrize("tls", ["--skip-ssl", "--ssl", ""])
def test_the_mariadb_client_logs_in(setting: Setting, release: str, user: str, tls: str) -> None:
    binaries = ensure(release)
    plugins = f"--plugin-dir={binaries.folder / 'root/usr/lib/mysql/plugin'}"
    options = [plugins, tls] if tls else [plugins]
    if setting.source.flavor is Flavor.MYSQL:
        # Only a MariaDB server may prove itself by the password instead of by a certificate that the client can check.
        options.append("--skip-ssl-verify-server-cert")
    assert setting.ask(binaries, user, *options) == f"{user}@127.0.0.1"


def test_wrong_passwords_and_unknown_users_get_the_servers_answer(setting: Setting) -> None:
    for release, user in (("mysql-9.7", "stored_sha2"), ("mysql-9.7", "nobody"), ("mariadb-10.11", "native")):
        said = setting.ask(ensure(release), user, password="wrong")
        assert "ERROR 1045 (28000)" in said
        assert f"Access denied for user '{user}'@'127.0.0.1' (using password: YES)" in said


def test_the_tools_find_what_they_ask_for(setting: Setting) -> None:
    mysql = setting.source.flavor is Flavor.MYSQL
    login = ["-uboth", f"-p{PASSWORD}"]
    if mysql:
        assert "mysqld is alive" in setting.run(setting.source.binaries, "mysqladmin", *login, "ping", "status")
    else:
        said = setting.run(setting.source.binaries, "mariadb-admin", "--skip-ssl", *login, "ping", "status")
        assert "is alive" in said
    client = "mysql" if mysql else "mariadb"
    script = "SHOW BINARY LOGS; SHOW MASTER STATUS; SHOW PROCESSLIST; SELECT @@version_comment; SHOW WARNINGS"
    said = setting.run(setting.source.binaries, client, *login, "-e", script)
    assert setting.source.binary_logs()[0] in said
    assert "Kingbus" in said
    assert "(exit code" not in said


@pytest.mark.parametrize("user", ["both", "stored_sha2"])
def test_the_binlog_tool_fetches_over_tls(setting: Setting, user: str, tmp_path: Path) -> None:
    names = setting.source.binary_logs()
    binaries = setting.source.binaries
    tls = ["--ssl-mode=REQUIRED"] if setting.source.flavor is Flavor.MYSQL else ["--ssl"]
    if setting.source.flavor is Flavor.MARIADB and user == "stored_sha2":
        tls.append(f"--plugin-dir={binaries.folder / 'root/usr/lib/mysql/plugin'}")
    program = binaries.binlog.name
    said = setting.run(
        binaries,
        program,
        *tls,
        f"-u{user}",
        f"-p{PASSWORD}",
        "-R",
        "--raw",
        "--to-last-log",
        f"-r{tmp_path}/",
        names[0],
    )
    assert "(exit code" not in said, said
    for name in names[:-1]:  # the last one is open on the source
        assert (tmp_path / name).stat().st_size == (setting.source.data / name).stat().st_size


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("both", ""),
        ("sha2", ", SOURCE_SSL=1"),
        ("stored_sha2", ", SOURCE_SSL=0"),
        ("stored_sha2", ", SOURCE_SSL=1"),
        ("native", ", SOURCE_SSL=0"),
        ("both", ", SOURCE_SSL=1, SOURCE_SSL_VERIFY_SERVER_CERT=1, SOURCE_SSL_CA='{ca}'"),
    ],
)
def test_a_mysql_replica_logs_in_and_catches_up(settings: dict[Flavor, Setting], user: str, options: str) -> None:
    setting = settings[Flavor.MYSQL]
    replica = setting.pool.server("mysql-9.7")
    ca = setting.node.data / "keys" / "ca.pem"
    replicate(replica, Upstream(setting.node.port, user, PASSWORD), options=options.format(ca=ca))
    wait_caught_up(setting.source, replica)
    replica.stop()


@pytest.mark.parametrize("release", ["mariadb-10.11", "mariadb-11.8"])
@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("both", ", MASTER_SSL=0"),
        ("native", ", MASTER_SSL=1"),
        ("stored_native", ""),
        ("both", ", MASTER_SSL=1, MASTER_SSL_VERIFY_SERVER_CERT=1, MASTER_SSL_CA='{ca}'"),
    ],
)
def test_a_mariadb_replica_logs_in_and_catches_up(
    settings: dict[Flavor, Setting], release: str, user: str, options: str
) -> None:
    setting = settings[Flavor.MARIADB]
    replica = setting.pool.server(release)
    ca = setting.node.data / "keys" / "ca.pem"
    replicate(replica, Upstream(setting.node.port, user, PASSWORD), options=options.format(ca=ca))
    wait_caught_up(setting.source, replica)
    replica.stop()


@pytest.mark.filterwarnings("ignore:'db' is deprecated:DeprecationWarning")  # the library's own use of PyMySQL
@pytest.mark.parametrize(
    ("flavor", "where"),
    [
        (Flavor.MYSQL, {"log_file": "{file}", "log_pos": 4}),
        (Flavor.MYSQL, {"auto_position": "11111111-2222-3333-4444-555555555555:1"}),
        (Flavor.MARIADB, {"log_file": "{file}", "log_pos": 4}),
    ],
)
def test_python_mysql_replication_reads_rows(
    settings: dict[Flavor, Setting], flavor: Flavor, where: dict[str, object]
) -> None:
    setting = settings[flavor]
    if "log_file" in where:
        where = where | {"log_file": setting.source.binary_logs()[0]}
    stream = BinLogStreamReader(
        connection_settings={"host": "127.0.0.1", "port": setting.node.port, "user": "both", "password": PASSWORD},
        server_id=4242,
        blocking=False,
        is_mariadb=flavor is Flavor.MARIADB,
        only_events=[WriteRowsEvent],
        **where,
    )
    try:
        assert next(iter(stream)).rows
    finally:
        stream.close()
