"""``docs/cli.md`` is made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import golden

from kingbus_node.cli import main

DOCS = Path(__file__).parents[3] / "docs"

INTRODUCTION = """\
# The command line

<!-- Made from the code by `make docs`: change the help texts in node/kingbus_node/cli instead. -->

`kingbus` runs a node, and asks and orders running ones. All commands but `node` and `demo` talk to the admin API of
one node, any of them: what only the leader can do is passed on to it ([the API](http.md)).

- **Which node.** `--admin URL`, or `KINGBUS_ADMIN`; `http://127.0.0.1:8080` if neither is given. `--ca-file` verifies
  an `https` address.
- **The token**, where the node wants one: `KINGBUS_ADMIN_TOKEN`, or `--token-file FILE`. Never as an argument.
- **Output.** Tables on a terminal, plain aligned text when piped (nothing is shortened or wrapped), or with `-o json`
  and `-o yaml` the node's own answer. Errors go to standard error, one sentence each.
- **Exit code.** 0 done, 1 it failed, 2 the command line was wrong. `gtid contains` exits with 1 for "no".

`kingbus COMMAND --help` says the same as this page.
"""

COMMON = {"url", "token_file", "ca_file"}
"""Options of every command that asks a node: told once, in the introduction."""


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, groups included."""
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], (*path, name))


def cell(text: str) -> str:
    """In a table a bar would end the cell."""
    return text.replace("|", "\\|")


def section(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    help_text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    heading = "##" if len(path) == 2 else "###"
    parts = [f"{heading} `{' '.join(path)}`", help_text]
    if not isinstance(command, click.Group):
        shown = [one for one in command.params if isinstance(one, click.Option) and one.name not in COMMON]
        usage = " ".join([*path, *(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")])
        parts.insert(1, f"    {usage}{' [OPTIONS]' if shown else ''}")
        rows = [record for option in shown if (record := option.get_help_record(context)) is not None]
        if rows:
            table = ["| option | meaning |", "|---|---|"]
            table += [
                f"| `{name.replace('|', chr(92) + '|')}` | {text.replace('|', chr(92) + '|')} |" for name, text in rows
            ]
            parts.append("\n".join(table))
    return "\n\n".join(parts)


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    sections = [section(path, command) for path, command in commands(main, ("kingbus",)) if len(path) > 1]
    golden.check(DOCS / "cli.md", "\n\n".join([INTRODUCTION.rstrip(), *sections]) + "\n")


def test_every_command_and_every_option_has_a_help_text() -> None:
    for path, command in commands(main, ("kingbus",)):
        assert command.help, path
        for one in command.params:
            if isinstance(one, click.Option):
                assert one.help, (path, one.name)


def test_every_promised_command_is_there() -> None:
    promised = """
        node; demo; status; members list; members add; members remove; leader show; leader transfer; source show;
        source set; source stop; source start; source switch; replicas list; replicas kill; gtid executed; gtid purged;
        gtid subtract; gtid contains; binlogs list; binlogs events; binlogs purge; binlogs export; verify
    """
    there = {" ".join(path[1:]) for path, _ in commands(main, ("kingbus",))}
    assert {" ".join(name.split()) for name in promised.split(";")} <= there
