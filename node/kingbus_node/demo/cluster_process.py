"""A Kingbus cluster on this machine, each node a process of its own, for the demonstration and for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from kingbus_node.demo.node_process import LOOPBACK, Listening, NodeProcess, Place, Settings
from kingbus_node.demo.waiting import wait_until

__all__ = ["ClusterProcess", "NodeState"]


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node says of itself. ``executed``: in one line."""

    name: str
    role: str
    term: int
    leader: str | None
    ready: bool
    executed: str
    commit_index: int


class ClusterProcess:
    """Some nodes that replicate from ``source`` together. A context manager that starts them and kills them at the end.

    ``nodes`` are in order of their names: node-1, node-2, ...
    """

    def __init__(
        self,
        source: Listening,
        folder: Path,
        *,
        size: int = 3,
        settings: Settings | None = None,
        places: Sequence[Place] = (),
    ) -> None:
        """``folder`` need not exist; ``settings`` are every node's; ``places``: one for each, or all on loopback."""
        self.nodes = [
            NodeProcess(source, folder / (name := f"node-{number}"), name=name, settings=settings, place=place)
            for number, place in enumerate(places or [LOOPBACK] * size, 1)
        ]
        for node in self.nodes:
            node.peers = tuple(peer.raft_address for peer in self.nodes)

    def __repr__(self) -> str:
        return f"<cluster of {len(self.nodes)}: {', '.join(map(repr, self.nodes))}>"

    @property
    def by_name(self) -> Mapping[str, NodeProcess]:
        return {node.name: node for node in self.nodes}

    @property
    def running(self) -> list[NodeProcess]:
        """The nodes whose processes run."""
        return [node for node in self.nodes if node.running]

    def start(self, timeout: float = 90.0, *, ready: bool = True) -> Self:
        """Start all; wait until all serve committed data, or with ``ready=False`` until one leads."""
        for node in self.nodes:
            node.launch()
        try:
            if ready:
                self.wait_ready(timeout)
            else:
                self.wait_leader(timeout)
        except Exception:
            self.kill()
            raise
        return self

    def wait_ready(self, timeout: float = 90.0) -> None:
        """Wait until every node that runs serves committed data."""
        for node in self.running:
            wait_until(node.is_ready, timeout, f"{node!r} to be ready", found=node.log_tail)

    def states(self) -> dict[str, NodeState | None]:
        """What each node says, None for one that does not answer."""
        return {node.name: state_of(node) for node in self.nodes}

    def leader(self, among: Sequence[NodeProcess] | None = None) -> NodeProcess | None:
        """The node that leads: of those that say so of themselves, the one in the highest term."""
        states = [state_of(node) for node in (self.nodes if among is None else among)]
        leading = [state for state in states if state is not None and state.role == "leader"]
        return self.by_name[max(leading, key=lambda state: state.term).name] if leading else None

    def wait_leader(
        self,
        timeout: float = 60.0,
        *,
        among: Sequence[NodeProcess] | None = None,
        other_than: NodeProcess | None = None,
    ) -> NodeProcess:
        """Wait until a node leads; ``among`` says which are asked (one that hangs takes its time to answer)."""
        asked = [node for node in (self.nodes if among is None else among) if node is not other_than]
        what = f"one of {', '.join(node.name for node in asked)} to lead"
        return wait_until(
            lambda: self.leader(asked), timeout, what, found=lambda: "\n".join(node.log_tail() for node in asked)
        )

    def followers(self, leader: NodeProcess) -> list[NodeProcess]:
        """The nodes that run, but for ``leader``."""
        return [node for node in self.running if node is not leader]

    def check(self) -> None:
        """``NodeFailed`` when a node has ended by itself."""
        for node in self.nodes:
            node.check()

    def stop(self) -> None:
        """End all by SIGTERM, the followers first; ``NodeFailed`` unless each ends with code 0."""
        leader = self.leader()
        for node in sorted(self.running, key=lambda node: node is leader):
            node.stop()

    def kill(self) -> None:
        """kill -9 for all."""
        with ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.kill)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def state_of(node: NodeProcess) -> NodeState | None:
    """What a node says of itself alone; None when it does not answer."""
    if not node.running:
        return None
    try:
        status = node.status(local=True)
    except OSError:
        return None
    gtid, term, leader, index = status["gtid"], status["term"], status["leader"], status["commit_index"]
    return NodeState(
        name=node.name,
        role=str(status["role"]),
        term=term if isinstance(term, int) else 0,
        leader=leader if isinstance(leader, str) else None,
        ready=status["ready"] is True,
        executed=str(gtid["executed"] or "").replace("\n", "") if isinstance(gtid, dict) else "",
        commit_index=index if isinstance(index, int) else 0,
    )
