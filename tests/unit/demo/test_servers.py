"""Servers are found, in the cache or on PATH, or it is said what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from kingbus_node.demo import servers
from kingbus_node.demo.servers import RELEASES, ServerMissing, cache_folder, ensure, main


@pytest.fixture
def no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a PATH with one folder, which is returned."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("KINGBUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(servers, "_SERVER_FOLDERS", ())
    return path


def program(folder: Path, name: str, version: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho '{name}  Ver {version} for Linux on x86_64'\n")
    (folder / name).chmod(0o755)


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_folder({"KINGBUS_CACHE": "/a"}) == Path("/a/servers")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/kingbus/servers")
    assert cache_folder({}) == Path("~/.cache/kingbus/servers").expanduser()


def test_a_server_on_path_is_used_when_packages_can_not_be_had(no_apt: Path) -> None:
    for name in ("mysqld", "mysqlbinlog", "mysqldump"):
        program(no_apt, name, "9.7.0")
    said: list[str] = []
    binaries = ensure("mysql-9.7", said.append)
    assert binaries.server == no_apt / "mysqld"
    assert binaries.version == "9.7.0"
    assert said == [f"mysql-9.7: using {no_apt}/mysqld from PATH, version 9.7.0"]


def test_a_server_on_path_of_the_other_flavor_is_refused(no_apt: Path) -> None:
    for name in ("mysqld", "mysqlbinlog", "mysqldump"):
        program(no_apt, name, "11.8.2-MariaDB")
    with pytest.raises(ServerMissing, match=r"expected mysql as .*mysqld, found version 11\.8\.2-MariaDB"):
        ensure("mysql-9.7")


def test_without_any_server_it_is_said_what_to_install(no_apt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(no_apt.iterdir()) == []
    assert main(["mariadb-11.8"]) == 1
    said = capsys.readouterr().err
    assert "mariadb-11.8 is not available on this machine" in said
    assert "Install mariadbd and mariadb-binlog, version 11.8, so that they are on PATH" in said


def test_an_unknown_server_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle-7"]) == 2
    assert "expected some of " + ", ".join(RELEASES) in capsys.readouterr().err
