"""Debian packages unpacked into a folder: nothing is installed, the system's apt and dpkg stay as they are.

A server from another Debian release than the machine's needs that release's C library too, so the whole closure of
its packages is unpacked and its programs are started through *their* dynamic loader. The mirror, its keyring, proxies
and certificates are those of the machine's own apt configuration; only the lists, the cache and the dpkg status are
private.

sources.list(5) describes the two formats parsed here (one-line and deb822), apt.conf(5) the options.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AptSource", "PackageError", "Progress", "debian_mirrors", "parse_sources", "system_mirrors", "unpack"]

Progress = Callable[[str], None]

MIRROR_VARIABLE = "KINGBUS_DEBIAN_MIRROR"

_KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp")
_CODENAMES = "buster|bullseye|bookworm|trixie|forky|duke|sid|stable|oldstable|testing|unstable"
_DEBIAN_SUITE = re.compile(rf"({_CODENAMES})(-updates)?$")

# In the closure of an empty system, but only maintainer scripts and documentation tools need them.
_UNUSED = re.compile(
    r"perl|libperl|libgdbm|libdb5|libsasl2-modules-db|openssl-provider|libc-gconv|gcc-\d|libtirpc-common|debconf|dpkg|tar$"
)
_EXCLUDED_FILES = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "*/group_replication.so")


class PackageError(Exception):
    """Packages can't be fetched or unpacked here; the text says what was expected, what was found and what to do."""


@dataclass(frozen=True, slots=True)
class AptSource:
    """One repository of the machine's apt configuration.

    `signed_by` is what the configuration says: paths, key fingerprints, or (deb822 only) an armoured key block; empty
    when apt's trusted keys decide.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


def parse_sources(name: str, text: str) -> list[AptSource]:
    """The enabled binary repositories of one configuration file; its name (.sources or .list) decides the format."""
    return list(_parse_deb822(text) if name.endswith(".sources") else _parse_one_line(text))


def _parse_one_line(text: str) -> Iterable[AptSource]:
    for line in text.splitlines():
        match = re.match(
            r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<rest>[^#]*)", line.strip()
        )
        if match is None:
            continue
        options = dict(option.split("=", 1) for option in (match["options"] or "").split() if "=" in option)
        yield AptSource(
            uri=match["uri"],
            suites=(match["suite"],),
            components=tuple(match["rest"].split()),
            signed_by=options.get("signed-by", "").replace(",", " "),
            trusted=options.get("trusted") == "yes",
        )


def _parse_deb822(text: str) -> Iterable[AptSource]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        field = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                if field:
                    fields[field] += "\n" + line.strip()
                continue
            field, colon, value = line.partition(":")
            field = field.strip().lower() if colon else ""
            if field:
                fields[field] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        for uri in fields.get("uris", "").split():
            yield AptSource(
                uri=uri,
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", ""),
                trusted=fields.get("trusted", "").lower() == "yes",
            )


def debian_mirrors(sources: Iterable[AptSource]) -> list[AptSource]:
    """The repositories that look like Debian's own archive, the likeliest first, one per address.

    Others publish for Debian suites too (and some call their component `main`), so this can only rank: Debian's keyring
    counts most, then an address that ends in /debian. Security archives hold too little to be a mirror.
    """
    ranked: dict[str, tuple[int, AptSource]] = {}
    for source in sources:
        uri = source.uri.rstrip("/")
        if (
            uri.startswith("cdrom:")
            or "main" not in source.components
            or not any(map(_DEBIAN_SUITE.match, source.suites))
        ):
            continue
        rank = -2 * ("debian-archive" in source.signed_by) - uri.endswith("/debian")
        if uri not in ranked or rank < ranked[uri][0]:
            ranked[uri] = (rank, source)
    return [source for _, source in sorted(ranked.values(), key=lambda item: item[0])]


def system_mirrors(root: Path = Path("/etc/apt"), environ: Mapping[str, str] = os.environ) -> list[AptSource]:
    """Debian mirrors to try, in order: KINGBUS_DEBIAN_MIRROR alone when set, else those of the apt configuration."""
    if chosen := environ.get(MIRROR_VARIABLE):
        return [AptSource(uri=chosen, suites=(), components=("main",))]
    files = [root / "sources.list", *sorted((root / "sources.list.d").glob("*.list"))]
    files += sorted((root / "sources.list.d").glob("*.sources"))
    return debian_mirrors(
        source
        for file in files
        if file.is_file()
        for source in parse_sources(file.name, file.read_text(errors="replace"))
    )


def unpack(suite: str, packages: Sequence[str], bare: Sequence[str], root: Path, progress: Progress) -> None:
    """Unpack `packages` of a Debian suite with all that they depend on, and `bare` alone, into the folder `root`.

    Everything temporary is kept in `<root>.apt`, which is gone afterwards. Raises PackageError when the machine has
    no apt, when no mirror is configured, or when none of them has the packages.
    """
    for tool in ("apt-get", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise PackageError(f"{tool} is needed to unpack Debian packages and is not on this machine")
    mirrors = system_mirrors()
    if not mirrors:
        raise PackageError(
            "no Debian mirror in the apt configuration: expected an enabled entry of a Debian suite and component "
            "main in /etc/apt/sources.list or /etc/apt/sources.list.d, or the mirror's address in " + MIRROR_VARIABLE
        )
    failures = []
    for mirror in mirrors:
        work = root.with_name(root.name + ".apt")
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(root, ignore_errors=True)
        try:
            apt = _PrivateApt(work, mirror, suite)
            progress(f"reading the package list of {suite}")
            apt.run("update")
            names = [*apt.closure(packages), *bare]
            progress(f"downloading {len(names)} packages of {suite}")
            files = apt.download(names)
            progress(f"unpacking {len(files)} packages")
            root.mkdir(parents=True)
            for file in files:
                _extract(file, root)
        except _CommandFailed as failure:
            failures.append(f"{mirror.uri}: {failure}")
        else:
            return
        finally:
            shutil.rmtree(work, ignore_errors=True)
    raise PackageError(
        f"could not get {', '.join(packages)} of Debian {suite} from any configured mirror\n" + "\n".join(failures)
    )


class _CommandFailed(Exception):
    """A command's exit code and the end of what it said."""


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, text=True, errors="replace", stdin=subprocess.DEVNULL, capture_output=True, check=False,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise _CommandFailed(f"{command[0]} exited with {done.returncode}: {said}")
    return done.stdout


class _PrivateApt:
    """apt-get with its own lists, cache, status and sources, in a folder of its own."""

    def __init__(self, work: Path, mirror: AptSource, suite: str) -> None:
        self._work = work
        for folder in ("lists/partial", "cache/archives/partial", "parts", "debs"):
            (work / folder).mkdir(parents=True)
        (work / "status").touch()
        (work / "sources.list").write_text(f"deb {self._options(mirror)}{mirror.uri} {suite} main\n")
        settings = {
            "Dir::State": work,
            "Dir::State::Lists": work / "lists",
            "Dir::State::status": work / "status",
            "Dir::Cache": work / "cache",
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": work / "parts",
            "Dir::Etc::preferences": work / "parts" / "none",
            "Dir::Etc::preferencesparts": work / "parts",
            "APT::Install-Recommends": "0",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
            "APT::Update::Error-Mode": "any",
            "Debug::NoLocking": "1",
        }
        self._command = ["apt-get", "-q"]
        for key, value in settings.items():
            self._command += ["-o", f"{key}={value}"]

    def _options(self, mirror: AptSource) -> str:
        signed_by = mirror.signed_by
        if "BEGIN PGP" in signed_by:
            # deb822 keeps empty lines of a key block as a lone dot.
            key = self._work / "mirror.asc"
            key.write_text("\n".join("" if line == "." else line for line in signed_by.splitlines()).strip() + "\n")
            signed_by = str(key)
        if not signed_by:
            signed_by = next((path for path in _KEYRINGS if Path(path).is_file()), "")
        options = [f"signed-by={','.join(signed_by.split())}"] if signed_by else []
        options += ["trusted=yes"] if mirror.trusted else []
        return f"[{' '.join(options)}] " if options else ""

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        return _run([*self._command, *arguments], cwd)

    def closure(self, packages: Sequence[str]) -> list[str]:
        """All packages that an empty system would need for these, but for what only maintainer scripts use."""
        said = self.run("--simulate", "install", *packages)
        names = [line.split()[1] for line in said.splitlines() if line.startswith("Inst ")]
        return [name for name in names if not _UNUSED.match(name)]

    def download(self, names: Sequence[str]) -> list[Path]:
        folder = self._work / "debs"
        self.run("download", *names, cwd=folder)
        return sorted(folder.glob("*.deb"))


def _extract(package: Path, root: Path) -> None:
    excludes = [f"--exclude={pattern}" for pattern in _EXCLUDED_FILES]
    # --keep-directory-symlink: merged-/usr packages ship /lib as a link, older ones as a folder.
    unpack = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner", *excludes]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
        done = subprocess.run(
            unpack, stdin=archive.stdout, capture_output=True, text=True, errors="replace", check=False
        )
    if archive.returncode != 0 or done.returncode != 0:
        raise _CommandFailed(f"{package.name} can't be unpacked: {done.stderr.strip()[-1000:]}")
