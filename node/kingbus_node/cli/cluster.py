"""``kingbus members`` and ``kingbus leader``: who belongs to the cluster, and who leads it."""

from __future__ import annotations

from urllib.parse import quote

import click

from kingbus_node.cli.client import ORDER_SECONDS, AdminClient, asks_a_node
from kingbus_node.cli.output import Format, Report, field, items, output_option, show, text

MEMBER_COLUMNS = ("member", "address", "role", "durable up to", "connected", "priority", "admin")


def member_row(member: object) -> list[str]:
    """One member of ``GET /v1/status`` under ``MEMBER_COLUMNS``."""
    names = ("name", "address", "role", "match_index", "connected", "priority", "admin")
    row = [text(field(member, name)) for name in names]
    if field(member, "joining") is True:
        row[2] += ", joining"
    return row


@click.group()
def members() -> None:
    """The nodes that make up the cluster."""


@members.command("list")
@output_option
@asks_a_node
def list_members(client: AdminClient, form: Format) -> None:
    """Show the members, as the leader sees them."""
    show(client.get("/v1/members"), form, _members)


def _members(answer: object) -> Report:
    made = Report()
    made.table(MEMBER_COLUMNS, [member_row(member) for member in items(answer)])
    return made


@members.command("add")
@click.argument("address")
@click.option("--name", default="", help="The node's name. It tells it itself when it is left out.")
@click.option(
    "--role",
    type=click.Choice(["voter", "learner", "witness"]),
    default="voter",
    show_default=True,
    help="A learner has the log and no vote; a witness votes and is never preferred as leader.",
)
@click.option("--priority", type=int, default=0, show_default=True, help="Leadership drifts to the highest.")
@output_option
@asks_a_node
def add_member(client: AdminClient, form: Format, address: str, name: str, role: str, priority: int) -> None:
    """Take in the node at ADDRESS (its raft.advertise, host:port).

    It receives the log first, and votes when it has caught up. Start the node before or after.
    """
    body: dict[str, object] = {"address": address, "name": name, "role": role, "priority": priority}
    show(client.send("POST", "/v1/members", body, ORDER_SECONDS), form, _members)


@members.command("remove")
@click.argument("name")
@asks_a_node
def remove_member(client: AdminClient, name: str) -> None:
    """Remove the member NAME (or the one at that address). The leader hands over before it goes."""
    client.send("DELETE", f"/v1/members/{quote(name, safe='')}", seconds=ORDER_SECONDS)


@click.group()
def leader() -> None:
    """The node that reads from the source."""


@leader.command("show")
@output_option
@asks_a_node
def show_leader(client: AdminClient, form: Format) -> None:
    """Show who leads, and since which term."""
    status = client.get("/v1/status?local=true")
    found = next((one for one in items(field(status, "members")) if field(one, "role") == "leader"), None)
    names = ("leader", "term")
    answer = {name: field(status, name) for name in names} | {name: field(found, name) for name in ("address", "admin")}
    if answer["leader"] is None:
        raise click.ClickException("there is no leader now")
    show(answer, form, _leader)


def _leader(answer: object) -> Report:
    made = Report()
    made.pairs(
        {
            "Leader": text(field(answer, "leader")),
            "Term": text(field(answer, "term")),
            "Address": text(field(answer, "address")),
            "Admin": text(field(answer, "admin")),
        }
    )
    return made


@leader.command("transfer")
@click.argument("node", required=False)
@asks_a_node
def transfer(client: AdminClient, node: str | None) -> None:
    """Hand the leadership to NODE, or to the follower that is best placed. Replicas notice nothing."""
    answer = client.send("POST", "/v1/leader/transfer", {"to": node}, ORDER_SECONDS)
    click.echo(f"{text(field(answer, 'leader'))} leads")
