"""Which real servers there are for demo and tests, and where their programs live.

`ensure("mysql-9.7")` gives the programs of a server, getting them first if need be: on Debian from unpacked packages
in the cache folder, elsewhere from PATH. `python -m kingbus_node.demo.servers [NAME...]` gets them all beforehand.

The cache folder is `$KINGBUS_CACHE/servers`, by default `~/.cache/kingbus/servers`. A server there is a folder with
`root/` (the unpacked packages), `bin/` (scripts that start each program through the packages' own dynamic loader) and
`complete`, which is written last: without it the folder is made anew. A lock file keeps two processes from doing so
at once.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kingbus_node.binlog.constants import Flavor
from kingbus_node.demo.packages import PackageError, Progress, unpack

__all__ = ["RELEASES", "Flavor", "Release", "ServerBinaries", "cache_folder", "ensure", "locked"]

# Raised whenever the content of a server's folder changes shape, so that older ones are made anew.
_LAYOUT = "1"

# Where systems put server programs that are not on a user's PATH.
_SERVER_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")


@dataclass(frozen=True, slots=True)
class Release:
    """A server that demo and tests can use, and the Debian packages that hold it."""

    name: str
    flavor: Flavor
    series: str
    """The start of its version number, such as `10.11`."""
    suite: str
    packages: tuple[str, ...]
    """Unpacked with all that they depend on."""
    bare: tuple[str, ...] = ()
    """Unpacked alone: their dependencies are for installing, not for running."""


RELEASES: Mapping[str, Release] = {
    release.name: release
    for release in (
        Release("mysql-9.7", Flavor.MYSQL, "9.7", "sid", ("mysql-server-core", "mysql-client-core")),
        Release(
            "mariadb-10.11", Flavor.MARIADB, "10.11", "bookworm",
            ("mariadb-server-core", "mariadb-client-core"), ("mariadb-server", "mariadb-client"),
        ),
        Release(
            "mariadb-11.8", Flavor.MARIADB, "11.8", "trixie",
            ("mariadb-server-core", "mariadb-client-core", "libmariadb3"), ("mariadb-server", "mariadb-client"),
        ),
    )
}  # fmt: skip

_PROGRAMS: Mapping[Flavor, tuple[str, ...]] = {
    Flavor.MYSQL: ("mysqld", "mysql", "mysqladmin", "mysqlbinlog", "mysqldump", "mysqlslap"),
    Flavor.MARIADB: ("mariadbd", "mariadb", "mariadb-admin", "mariadb-binlog", "mariadb-dump", "mariadb-slap"),
}


@dataclass(frozen=True, slots=True)
class ServerBinaries:
    """The programs of one server."""

    release: Release
    version: str
    """As the server prints it, such as `9.7.4-2` or `10.11.19-MariaDB-0+deb12u1`."""
    folder: Path
    """Where things derived from the programs, such as initialised data directories, may be kept."""
    server: Path
    binlog: Path
    """mysqlbinlog or mariadb-binlog."""
    dump: Path
    """mysqldump or mariadb-dump."""
    bootstrap_sql: Path | None = None
    """MariaDB: the folder that holds the SQL which fills an empty data directory."""

    @property
    def flavor(self) -> Flavor:
        return self.release.flavor


class ServerMissing(Exception):
    """A server is not here and can't be got; the text says what to install."""


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where servers are kept, outside any source tree."""
    if chosen := environ.get("KINGBUS_CACHE"):
        return Path(chosen).expanduser().resolve() / "servers"
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "kingbus" / "servers"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, made if absent; waits for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure(name: str, progress: Progress | None = None) -> ServerBinaries:
    """The programs of the server `name` (a key of RELEASES), fetched if need be.

    Raises ServerMissing with what to install when the server is neither cached, nor obtainable, nor on PATH.
    """
    release = RELEASES[name]
    progress = progress or _quiet
    folder = cache_folder() / name
    with locked(folder.with_name(name + ".lock")):
        if not _complete(folder):
            try:
                _build(release, folder, progress)
            except PackageError as error:
                return _from_path(release, error, progress)
    return _describe(release, folder)


def _complete(folder: Path) -> bool:
    marker = folder / "complete"
    return marker.is_file() and marker.read_text().partition("\n")[0] == _LAYOUT


def _build(release: Release, folder: Path, progress: Progress) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root, scripts = folder / "root", folder / "bin"
    unpack(release.suite, release.packages, release.bare, root, lambda text: progress(f"{release.name}: {text}"))
    scripts.mkdir()
    for program in _PROGRAMS[release.flavor]:
        _write_script(root, scripts / program)
    if release.flavor is Flavor.MARIADB:
        _collect_client_plugins(root)
    version = _version(scripts / _PROGRAMS[release.flavor][0])
    if not version.startswith(release.series + "."):
        progress(f"{release.name}: Debian {release.suite} now has {version}; using that")
    partial = folder / "complete.partial"
    partial.write_text(f"{_LAYOUT}\n{version}\n")
    partial.rename(folder / "complete")
    progress(f"{release.name}: version {version} is ready in {folder}")


def _find(root: Path, *patterns: str) -> Path | None:
    return next((path for pattern in patterns for path in sorted(root.glob(pattern)) if path.exists()), None)


def _write_script(root: Path, script: Path) -> None:
    """A script that becomes (exec: its pid is the program's) the program, run through root's own loader."""
    program = _find(root, f"usr/sbin/{script.name}", f"usr/bin/{script.name}")
    loader = _find(
        root, "usr/lib/*/ld-linux*.so.*", "lib/*/ld-linux*.so.*", "usr/lib*/ld-linux*.so.*", "lib*/ld-linux*.so.*"
    )
    if program is None or loader is None:
        raise PackageError(f"the unpacked packages hold no {script.name} or no dynamic loader: {root}")
    libraries = [
        root / "usr/lib" / loader.parent.name,
        root / "lib" / loader.parent.name,
        root / "usr/lib/mysql/private",
    ]
    path = ":".join(str(folder) for folder in libraries if folder.is_dir())
    lines = ["#!/bin/sh"]
    fixed = ""
    if script.name in ("mysqld", "mariadbd"):
        # The server wants its --no-defaults or --defaults-file first.
        lines += ['case "$1" in --no-defaults|--defaults-file=*) first=$1; shift;; *) first=--no-defaults;; esac']
        share = f"{root}/usr/share/mysql"
        fixed = (
            f' "$first" --basedir={root}/usr --plugin-dir={root}/usr/lib/mysql/plugin'
            f" --lc-messages-dir={share} --character-sets-dir={share}/charsets"
        )
    lines += [f'exec {loader} --argv0 {program} --library-path {path} {program}{fixed} "$@"']
    script.write_text("\n".join(lines) + "\n")
    script.chmod(0o755)


def _collect_client_plugins(root: Path) -> None:
    """Put the client library's plugins (caching_sha2_password) where mariadbd's replication client looks."""
    target = root / "usr/lib/mysql/plugin"
    target.mkdir(parents=True, exist_ok=True)
    for plugin in root.glob("usr/lib/*/libmariadb3/plugin/*.so"):
        if not (target / plugin.name).exists():
            shutil.copy2(plugin, target / plugin.name)


def _version(server: Path) -> str:
    """The version that a server program prints, e.g. from `mysqld  Ver 9.7.4-2 for Linux on x86_64`."""
    try:
        done = subprocess.run(
            [server, "--version"], text=True, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise PackageError(f"{server} does not start: {error}") from error
    match = re.search(r"Ver (\S+)", done.stdout)
    if done.returncode != 0 or match is None:
        raise PackageError(
            f"{server} --version failed with {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}"
        )
    return match[1]


def _describe(release: Release, folder: Path) -> ServerBinaries:
    server, _, _, binlog, dump, _ = _PROGRAMS[release.flavor]
    scripts = folder / "bin"
    return ServerBinaries(
        release=release,
        version=(folder / "complete").read_text().split("\n")[1],
        folder=folder,
        server=scripts / server,
        binlog=scripts / binlog,
        dump=scripts / dump,
        bootstrap_sql=_bootstrap_sql(folder / "root" / "usr") if release.flavor is Flavor.MARIADB else None,
    )


def _bootstrap_sql(prefix: Path) -> Path | None:
    found = _find(prefix, "share/mysql/m*_system_tables.sql", "share/mariadb/m*_system_tables.sql")
    return found.parent if found else None


def _from_path(release: Release, reason: PackageError, progress: Progress) -> ServerBinaries:
    """The same programs from PATH, of whatever version, when those there are of the wanted flavour."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SERVER_FOLDERS])
    programs = _PROGRAMS[release.flavor]
    found = {program: shutil.which(program, path=search) for program in programs}
    server, binlog, dump = (found[programs[0]], found[programs[3]], found[programs[4]])
    advice = (
        f"Install {programs[0]} and {programs[3]}, version {release.series}, so that they are on PATH, or run this on "
        f"Debian with apt-get and a configured mirror.\nFetching {release.name} here failed: {reason}"
    )
    if not (server and binlog and dump):
        raise ServerMissing(f"{release.name} is not available on this machine.\n{advice}") from reason
    version = _version(Path(server))
    if (release.flavor is Flavor.MARIADB) != ("MariaDB" in version):
        raise ServerMissing(f"expected {release.flavor} as {server}, found version {version}.\n{advice}") from reason
    progress(f"{release.name}: using {server} from PATH, version {version}")
    folder = cache_folder() / f"{release.name}-from-path"
    folder.mkdir(parents=True, exist_ok=True)
    return ServerBinaries(
        release=release,
        version=version,
        folder=folder,
        server=Path(server),
        binlog=Path(binlog),
        dump=Path(dump),
        bootstrap_sql=_bootstrap_sql(Path(server).resolve().parent.parent)
        if release.flavor is Flavor.MARIADB
        else None,
    )


def _quiet(text: str) -> None:
    del text


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Get the named servers, all by default; says what it does on stderr."""
    names = list(sys.argv[1:] if arguments is None else arguments) or list(RELEASES)
    if unknown := [name for name in names if name not in RELEASES]:
        sys.stderr.write(f"unknown server {unknown[0]!r}; expected some of {', '.join(RELEASES)}\n")
        return 2
    for name in names:
        try:
            ensure(name, _say)
        except ServerMissing as error:
            _say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
