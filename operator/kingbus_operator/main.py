"""The command ``kingbus-operator``."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from kingbus_operator.api.crd import text
from kingbus_operator.kube.credentials import SERVICE_ACCOUNT, CredentialsError, find
from kingbus_operator.shell.run import Options, run

_OPTION = "KINGBUS_OPERATOR"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": _OPTION})
def main() -> None:
    """Makes BinlogClusters on Kubernetes."""


@main.command()
def crd() -> None:
    """Print the CustomResourceDefinition."""
    click.echo(text(), nl=False)


@main.command(name="run")
@click.option("--image", required=True, envvar=f"{_OPTION}_IMAGE", help="Image of nodes whose spec names none.")
@click.option(
    "--namespaces", default="", envvar=f"{_OPTION}_NAMESPACES", help="What to watch, comma separated; empty: all."
)
@click.option("--namespace", default=None, envvar="POD_NAMESPACE", help="Where the Lease is; default: the pod's.")
@click.option("--identity", default=None, envvar="POD_NAME", help="Name of this operator; default: the host's.")
@click.option("--port", default=8081, envvar=f"{_OPTION}_PORT", show_default=True, help="/healthz, /readyz, /metrics.")
@click.option("--cluster-domain", default="cluster.local", envvar=f"{_OPTION}_CLUSTER_DOMAIN", show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar=f"{_OPTION}_LOG_LEVEL",
    show_default=True,
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar=f"{_OPTION}_LOG_FORMAT",
    show_default=True,
)
def run_command(
    image: str,
    namespaces: str,
    namespace: str | None,
    identity: str | None,
    port: int,
    cluster_domain: str,
    log_level: str,
    log_format: str,
) -> None:
    """Run the operator in the foreground, until SIGTERM."""
    _set_up_logs(log_level, log_format)
    try:
        credentials = find()
    except CredentialsError as error:
        raise click.ClickException(str(error)) from error
    options = Options(
        image=image,
        identity=identity or socket.gethostname(),
        namespace=namespace or _own_namespace(),
        namespaces=tuple(part.strip() for part in namespaces.split(",") if part.strip()),
        port=port,
        cluster_domain=cluster_domain,
    )
    asyncio.run(run(credentials, options))


def _own_namespace() -> str:
    file = Path(SERVICE_ACCOUNT, "namespace")
    return file.read_text().strip() if file.is_file() else "default"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def _set_up_logs(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_Json() if form == "json" else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        logging.getLogger("kopf").setLevel(logging.WARNING)  # it tells of every event that it hands us


if __name__ == "__main__":
    main()
