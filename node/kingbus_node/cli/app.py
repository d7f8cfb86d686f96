"""The commands of ``kingbus`` and what they have in common.

Exit codes: 0 done, 1 it failed (one sentence on standard error), 2 the command line itself was wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kingbus_node import __version__
from kingbus_node.cli.binlogs import binlogs
from kingbus_node.cli.cluster import leader, members
from kingbus_node.cli.extras import needs_node_extra
from kingbus_node.cli.gtid import gtid
from kingbus_node.cli.replicas import replicas
from kingbus_node.cli.source import source
from kingbus_node.cli.status import status
from kingbus_node.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="kingbus")
def main() -> None:
    """A binlog server: a replica to one MySQL or MariaDB source, a source to many replicas."""


for command in (status, members, leader, source, replicas, gtid, binlogs, verify):
    main.add_command(command)


@main.command()
@click.option(
    "--config",
    "path",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The YAML file described in docs/configuration.md.",
)
def node(path: Path) -> None:
    """Run one node in the foreground.

    SIGTERM and SIGINT end it in order (exit code 0); a second signal ends it at once.
    """
    with needs_node_extra():
        from kingbus_node.node import run
    sys.exit(run(path))


@main.command()
@click.option("--check", is_flag=True, help="Run unattended, exit 0 only if source and replica are equal at the end.")
@click.option(
    "--flavor",
    type=click.Choice(["mysql", "mariadb"]),
    default="mysql",
    show_default=True,
    help="Which servers stand at both ends.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=None,
    help="How long rows are written.  [default: 12 with --check, else 60]",
)
def demo(check: bool, flavor: str, seconds: float | None) -> None:
    """A real source, a cluster of three nodes and a real replica on this machine, rows flowing.

    Everything lives in a temporary folder and is gone at the end. The leader is killed (SIGKILL) once on the way.
    """
    with needs_node_extra():
        from kingbus_node.demo.show import run
    sys.exit(run(flavor="mariadb" if flavor == "mariadb" else "mysql", check=check, seconds=seconds))
