"""``kingbus verify`` through a real admin server, over a log that is whole and one that is not."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from click.testing import CliRunner
from unit.admin.fakes import FakeNode
from unit.admin.test_admin_http import serving
from unit.store.samples import started

from kingbus_node.cli import main
from kingbus_node.store.segment import list_segments, log_path


def test_a_damaged_log_is_told_counted_and_exit_code_1(tmp_path: Path) -> None:
    log, _ = started(tmp_path, transactions=50)
    log.close()
    node = FakeNode(log_directory=tmp_path)
    with serving(node) as server:

        def run(*arguments: str) -> tuple[int, str, str]:
            result = CliRunner(env={"KINGBUS_ADMIN": f"http://{server.address}"}).invoke(main, ["verify", *arguments])
            return result.exit_code, result.stdout, result.stderr

        code, out, err = run()
        assert (code, err) == (0, "")
        assert [line.split() for line in out.splitlines()][2:] == [
            ["Transactions", "50"],
            ["Gaps", "-"],
            ["Damages", "0"],
        ]

        path = log_path(tmp_path, list_segments(tmp_path)[0])
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        code, out, err = run("-o", "json")
        assert (code, err) == (1, "")
        (damage,) = json.loads(out)["damages"]
        assert damage["file"] == path.name
        assert "Damages       1\n" in run()[1]

        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as response:
            assert "\nkingbus_store_corruptions_total 2.0\n" in response.read().decode()

        code, out, err = run("--repair")
        assert (code, out) == (1, "")
        assert "nobody has an intact copy" in err
        node.mendable = {path.name}
        code, out, err = run("--repair")
        assert (code, err, node.mended) == (1, f"{path.name}: fetched from node-2\n", [path.name])
        content[-1] ^= 1
        path.write_bytes(content)
        assert run("--repair")[::2] == (0, "")
        assert node.mended == [path.name]

        node.log_directory = tmp_path / "gone"
        code, out, err = run()
        assert (code, out) == (1, "")
        assert "the log could not be read to its end" in err
