"""The container image, made from the project's own Dockerfile where there is no Docker and no registry; and run.

`python -m tools.image` (with `tests` on the path; `make image`) builds it with Docker when Docker answers. Otherwise,
as root on Debian: buildah and debootstrap from Debian's packages, unpacked into the cache and not installed, and a base
image of Debian's own Python 3.13 in the place of python:3.13-slim-bookworm. Nothing outside the cache is changed: the
libraries that buildah needs are laid over /usr/lib in a mount namespace that ends with it.

The build reads the machine's certificates and pip.conf, so that package mirrors work; neither is part of the image.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kingbus_node.demo.packages import PackageError, system_mirrors, unpack
from kingbus_node.demo.servers import locked
from tools import ToolMissing, cache_folder

ROOT = Path(__file__).resolve().parents[2]
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
NAME = f"localhost/kingbus:{VERSION}"
USER = 10001

_BASE = "localhost/kingbus-base:trixie"
_TOOLS_SUITE, _BASE_SUITE = "bookworm", "trixie"
_PACKAGES = (
    "debootstrap", "buildah", "golang-github-containers-common", "golang-github-containers-image",
    "libgpgme11", "libassuan0", "libdevmapper1.02.1", "libseccomp2",
)  # fmt: skip
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_LIBRARIES = f"/usr/lib/{os.uname().machine}-linux-gnu"


def docker_answers() -> bool:
    """Whether a Docker daemon is there."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


class Buildah:
    """Debian's buildah with a storage of its own. Root only."""

    def __init__(self) -> None:
        """Fetches what is missing. ToolMissing says what to do when that is impossible."""
        if os.geteuid() != 0:
            raise ToolMissing("building an image without Docker takes root: run this as root, or start Docker")
        self._tools = cache_folder() / f"buildah-{_TOOLS_SUITE}"
        self._storage = cache_folder() / "images"
        with locked(self._tools.with_suffix(".lock")):
            if not self._tools.is_dir():
                partial = self._tools.with_suffix(".new")
                try:
                    unpack(_TOOLS_SUITE, (), _PACKAGES, partial, _say)
                except PackageError as error:
                    raise ToolMissing(f"neither Docker nor Debian's buildah can be had: {error}") from error
                partial.rename(self._tools)

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs buildah in a mount namespace of its own."""
        lay = f'mount -t overlay overlay -o lowerdir="$0{_LIBRARIES}:{_LIBRARIES}" {_LIBRARIES} && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", lay, str(self._tools), *self._program(), *arguments]

    def _program(self) -> list[str]:
        program = [str(self._tools / "usr/bin/buildah"), "--root", str(self._storage / "root")]
        program += ["--runroot", str(self._storage / "run"), "--storage-driver", "overlay"]
        return [*program, "--registries-conf", str(self._tools / "etc/containers/registries.conf")]

    def run(self, *arguments: str) -> str:
        """What buildah printed. CalledProcessError when it failed; what it has to say goes to stderr."""
        done = subprocess.run(
            self.command(*arguments), check=True, stdout=subprocess.PIPE, text=True, env=self._environment()
        )
        return done.stdout.strip()

    def policy(self) -> list[str]:
        """The option that commands need which take or make images."""
        return ["--signature-policy", str(self._tools / "etc/containers/policy.json")]

    def has(self, name: str) -> bool:
        """Whether an image is in the storage."""
        return any(name in (image.get("names") or []) for image in json.loads(self.run("images", "--json") or "[]"))

    def base(self) -> str:
        """The name of the base image, made if need be: a minimal Debian with Python."""
        if self.has(_BASE):
            return _BASE
        folder = self._storage / "base"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mirrors = system_mirrors()
        if not mirrors:
            raise ToolMissing("no Debian mirror in the apt configuration to make a base image from")
        keyring = [f"--keyring={_KEYRING}"] if _KEYRING.is_file() else ["--no-check-gpg"]
        command = [str(self._tools / "usr/sbin/debootstrap"), "--variant=minbase", *keyring]
        command += ["--include=ca-certificates,python3,python3-venv", _BASE_SUITE, str(folder), mirrors[0].uri]
        environment = {**os.environ, "DEBOOTSTRAP_DIR": str(self._tools / "usr/share/debootstrap")}
        _say(f"making a base image of Debian {_BASE_SUITE}")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        (folder / "usr/bin/python").symlink_to("python3")
        for waste in (*folder.glob("var/cache/apt/archives/*.deb"), *folder.glob("var/lib/apt/lists/*_*")):
            waste.unlink()
        container = self.run("from", "scratch")
        try:
            self.run("add", "--quiet", container, str(folder), "/")
            path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            self.run("config", "--env", f"PATH={path}", "--cmd", "python3", container)
            self.run("commit", "--quiet", *self.policy(), container, _BASE)
        finally:
            self.run("rm", container)
            shutil.rmtree(folder)
        return _BASE

    def build(self, base: str | None = None) -> str:
        """The image's name, built from the Dockerfile. `base`: an image in the storage, or one to be pulled."""
        arguments = ["build", *self.policy(), "--isolation", "chroot", "--network", "host", "--layers"]
        arguments += ["--build-arg", f"BASE_IMAGE={base or self.base()}", "--tag", NAME]
        for file in (_CERTIFICATES, Path("/etc/pip.conf")):
            arguments += ["--volume", f"{file}:{file}:ro"] if file.is_file() else []
        if index := os.environ.get("PIP_INDEX_URL"):
            arguments += ["--build-arg", f"PIP_INDEX_URL={index}"]
        subprocess.run(
            self.command(*arguments, str(ROOT)), check=True, stdout=sys.stderr.fileno(), env=self._environment()
        )
        return NAME

    def archive(self, file: Path) -> None:
        """Write the image for `docker load` and `ctr images import`."""
        file.unlink(missing_ok=True)
        self.run("push", "--quiet", *self.policy(), NAME, f"docker-archive:{file}:{NAME}")

    def inspect(self) -> Mapping[str, object]:
        """The image's configuration (OCI)."""
        found: Mapping[str, object] = json.loads(self.run("inspect", "--type", "image", NAME))["OCIv1"]
        return found

    def start(self, command: Sequence[str], *, config: Path | None = None) -> subprocess.Popen[str]:
        """Run a command in the image as Kubernetes would: the image's user, a read-only root, /tmp and the data
        directory empty and writable. `config` is mounted as /etc/kingbus. Its output is both of the command's."""
        # The container must be mounted in the mount namespace of what runs in it.
        mount = [*self._program(), "mount", self.run("from", "--pull-never", *self.policy(), NAME)]
        places = {"TOOLS": str(self._tools), "LIBRARIES": _LIBRARIES, "MOUNT": shlex.join(mount)}
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", _RUN, "sh", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self._environment() | places | {"CONFIG": str(config or ""), "ID": str(USER)},
        )  # fmt: skip

    def remove_containers(self) -> None:
        """Those that `start` made."""
        self.run("umount", "--all")
        self.run("rm", "--all")

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self._tools / "usr/share/containers/containers.conf")}


_RUN = """
mount -t overlay overlay -o lowerdir="$TOOLS$LIBRARIES:$LIBRARIES" "$LIBRARIES"
root=$(eval "$MOUNT")
mount --bind "$root" "$root"
if [ -n "$CONFIG" ]; then mkdir -p "$root/etc/kingbus"; mount --bind "$CONFIG" "$root/etc/kingbus"; fi
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o "mode=0700,uid=$ID,gid=$ID" tmpfs "$root/var/lib/kingbus"
mount --rbind /dev "$root/dev"
mount -o remount,ro,bind "$root"
exec /usr/sbin/chroot --userspec="$ID:$ID" "$root" /usr/bin/env -i PATH=/opt/kingbus/bin:/usr/bin:/bin \
    HOME=/var/lib/kingbus PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 "$@"
"""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Builds it, and writes an archive when asked to."""
    parser = argparse.ArgumentParser(prog="tools.image", description="builds the container image from the Dockerfile")
    parser.add_argument("--archive", type=Path, help="also write it to this file, for docker load and ctr import")
    parser.add_argument(
        "--base", help="base image (BASE_IMAGE); without Docker the default is made from Debian packages"
    )
    options = parser.parse_args()
    try:
        if docker_answers():
            name = NAME.removeprefix("localhost/")
            arguments = ["--build-arg", f"BASE_IMAGE={options.base}"] if options.base else []
            subprocess.run(["docker", "build", "--tag", name, *arguments, str(ROOT)], check=True)
            if options.archive:
                subprocess.run(["docker", "save", "--output", str(options.archive), name], check=True)
        else:
            buildah = Buildah()
            name = buildah.build(options.base)
            if options.archive:
                buildah.archive(options.archive)
    except ToolMissing as error:
        _say(str(error))
        return 1
    except subprocess.CalledProcessError as error:
        _say(f"{Path(error.cmd[0]).name} failed with {error.returncode}: its reason is above")
        return 1
    print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
