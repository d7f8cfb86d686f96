"""`make test-image`: the image of the Dockerfile, run as Kubernetes runs it: not root, on a read-only file system."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tools.image import VERSION, Buildah

from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    made = Buildah()
    made.build()
    yield made
    made.remove_containers()


def said(buildah: Buildah, *command: str) -> str:
    with buildah.start(command) as process:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        return output.strip()


def test_both_programs_are_there_and_no_compiler_and_no_pip(buildah: Buildah) -> None:
    assert VERSION in said(buildah, "kingbus", "--version")
    assert "--namespaces" in said(buildah, "kingbus-operator", "run", "--help")
    assert said(buildah, "sh", "-c", "command -v gcc cc c++ pip make || echo none") == "none"


def test_it_is_not_root_and_cannot_write_but_where_it_must(buildah: Buildah) -> None:
    assert said(buildah, "id", "-u") == "10001"
    tries = "for f in / /opt/kingbus /etc /tmp /var/lib/kingbus; do touch $f/x 2>/dev/null && echo $f; done; true"
    assert said(buildah, "sh", "-c", tries).split() == ["/tmp", "/var/lib/kingbus"]


def test_the_operator_carries_its_data(buildah: Buildah) -> None:
    """Files that are not Python are forgotten easily when a wheel is made."""
    code = (
        "from importlib.resources import files; print(files('kingbus_operator.build').joinpath('rules.yaml').is_file())"
    )
    assert said(buildah, "python", "-c", code) == "True"
    assert "binlogclusters.kingbus.io" in said(buildah, "kingbus-operator", "crd")


def test_a_node_runs_in_it_and_ends_when_told_to(buildah: Buildah, tmp_path: Path) -> None:
    serve, admin, nothing = ReservedPort(), ReservedPort(), ReservedPort()
    settings = {
        "serve": {"listen": f"127.0.0.1:{serve.number}"},
        "source": {"endpoints": [f"127.0.0.1:{nothing.number}"], "user": "repl"},
        "storage": {"min_free_bytes": 0},
        "admin": {"listen": f"127.0.0.1:{admin.number}"},
    }
    tmp_path.chmod(0o755)
    (tmp_path / "kingbus.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "users.yaml").write_text("[]\n")
    command = ["kingbus", "node", "--config", "/etc/kingbus/kingbus.yaml"]
    with buildah.start(command, config=tmp_path) as process:

        def alive() -> bool:
            assert process.poll() is None, process.communicate()[0]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{admin.number}/livez", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        try:
            wait_until(alive, 120, "the node to answer")
        finally:
            _tell(process.pid, signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    assert "stopped" in output
    assert process.returncode == 0


def test_labels_and_user_are_said(buildah: Buildah) -> None:
    config = buildah.inspect()["config"]
    assert isinstance(config, dict)
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["kingbus"]
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def _tell(unshare: int, number: signal.Signals) -> None:
    """Signal the program below `unshare`, which is the first process of a namespace of its own."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = status.read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        if f"PPid:\t{unshare}" in lines:
            os.kill(int(status.parent.name), number)
