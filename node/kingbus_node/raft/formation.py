"""How a cluster begins, and how a node that lost its disk is kept from voting.

A vote is a promise that a disk remembers. A node that comes back under its old address with an empty disk has
forgotten its promises; let it vote, and a majority may elect a leader that lacks committed entries, although only one
disk was lost. So a disk that is empty makes up a random number, its *incarnation*, and belongs to no cluster: it does
not vote, does not stand for election, and what it acknowledges does not count. It comes to belong in one of two ways.

- **Founding.** All the first members (``raft.peers``) are up, and every one says that its disk is empty too. Each
  writes down the incarnations of all, and may vote. *All* must be there, this once: if a majority were enough, a
  founder that lost its disk and one that had never been up would found a second cluster, beside the disk that holds
  the data. A founder that was slower than the others is told by them that they wrote down its incarnation.
- **Joining.** An entry of the log names its incarnation. A leader that hears from a
  voter whose disk does not belong makes it a learner first, without being asked, and a voter again when it has caught
  up: changes of membership that move one voter at a time. See ``Leadership``.

The rule behind it: section 3.8 of the dissertation (persistent state): Raft is safe only with servers that remember.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from kingbus_node.raft.configuration import Configuration, Member
from kingbus_node.raft.messages import Form, FormReply
from kingbus_node.raft.storage import Identity, Storage

log = logging.getLogger(__name__)


class Formation:
    """Whether this node's disk belongs to a cluster.

    Simulation: ``nobody-forgets``, seed 1.

    :param founders: the first configuration, as this node was told
    """

    def __init__(self, address: str, storage: Storage, founders: Configuration) -> None:
        self._address = address
        self._storage = storage
        self.founders = founders
        self.identity: Identity = storage.identity()
        self._empty = {address: self.identity.incarnation}
        self._found_if_all_empty()

    @property
    def formed(self) -> bool:
        """Whether this node may vote."""
        return self.identity.formed

    @property
    def founding(self) -> tuple[str, ...]:
        """Whom a node that is not formed asks: the other first members, if it is one itself."""
        voters = self.founders.voters
        return tuple(v for v in voters if v != self._address) if self._address in voters else ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The founders that have not answered yet, for people who wait."""
        return tuple(v for v in self.founding if v not in self._empty) if not self.formed else ()

    def question(self) -> Form:
        """What to ask the other founders."""
        return Form(self.identity.incarnation, self.founders.encode())

    def on_form(self, message: Form) -> FormReply:
        """Answers another node's question.

        Founders that were not told the same first members do not count as empty for one another, so they found nothing.
        """
        same = message.founders == self.founders.encode()
        if not same:
            log.warning(
                "a node asks to form a cluster of other first members than this node's %s",
                ", ".join(self.founders.voters),
            )
        founders = Configuration(tuple(Member(a, incarnation=i) for a, i in self.identity.founders)).encode()
        return FormReply(self.identity.incarnation, self.formed or not same, founders)

    def on_reply(self, peer: str, message: FormReply) -> None:
        """Another founder answered."""
        if self.formed or peer not in self.founding:
            return
        if not message.formed:
            self._empty[peer] = message.incarnation
            self._found_if_all_empty()
            return
        self._empty.pop(peer, None)
        founders = tuple((m.address, m.incarnation) for m in Configuration.decode(message.founders).members)
        if (self._address, self.identity.incarnation) in founders:
            self._form(founders)

    def configured(self, configuration: Configuration) -> None:
        """A configuration came into effect: it may name this disk."""
        member = configuration.get(self._address)
        if not self.formed and member is not None and member.incarnation == self.identity.incarnation:
            self._form(())

    def _found_if_all_empty(self) -> None:
        voters = self.founders.voters
        if not self.formed and self._address in voters and all(v in self._empty for v in voters):
            self._form(tuple(sorted(self._empty.items())))

    def _form(self, founders: tuple[tuple[str, int], ...]) -> None:
        self.identity = replace(self.identity, formed=True, founders=founders)
        self._storage.save_identity(self.identity)
        log.info("%s: this disk belongs to the cluster now", self._address)
