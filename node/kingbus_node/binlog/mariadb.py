"""MariaDB's GTID positions and binlog state.

A MariaDB GTID is domain-server-sequence, e.g. 0-11-7. In each domain the transactions have one order, so a *position*
is one GTID for each domain: the last one executed. The *binlog state* remembers, beyond that, the last sequence number
of each server in each domain, because numbers of different servers may interleave; GTID_LIST at the head of a binlog
file holds it, the newest GTID of a domain as the domain's last entry (sql/rpl_gtid.h, rpl_binlog_state;
"GTID_LIST_EVENT" in the knowledge base).

Text ("Global Transaction ID" in the knowledge base; tried on MariaDB 10.11.19): GTIDs separated by commas. Printed
sorted by domain.

Binary, little endian: u32 number of entries (28 bits; the four above are flags), each: u32 domain, u32 server, u64
sequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from kingbus_node.binlog.constants import Buffer, Flavor
from kingbus_node.binlog.errors import BinlogError

_GTID = re.compile(r"\+?([0-9]{1,20})-([0-9]{1,20})-([0-9]{1,40})\Z")
_U32 = Struct("<I")
_ENTRY = Struct("<IIQ")
_COUNT_MASK = (1 << 28) - 1


class MariadbGtid(NamedTuple):
    """One GTID."""

    domain: int
    server: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> MariadbGtid:
        """Read `domain-server-sequence`: u32, u32, u64."""
        match = _GTID.match(text.strip())
        if match:
            domain, server, sequence = (int(part) for part in match.groups())
            if domain < 1 << 32 and server < 1 << 32 and sequence < 1 << 64:
                return cls(domain, server, sequence)
        raise BinlogError(f"expected a MariaDB GTID (domain-server-sequence) like 0-1-5, found {text[:64]!r}")


# A server pads an empty GTID_LIST so that it can be replaced by a dummy event, which needs a body of 6 bytes
# (Gtid_list_log_event::get_data_size in MariaDB's source; captured from 10.11).
_EMPTY_PADDING = 2


class MariadbState:
    """For each domain, the last sequence number of each server, and which of them is the newest. Mutable.

    Printed (`str`) as the position: the newest GTID of each domain. `to_json`, `encode` and equality keep everything.
    """

    __slots__ = ("_domains",)

    flavor: Final = Flavor.MARIADB

    def __init__(self, gtids: Iterable[MariadbGtid] = ()) -> None:
        """`gtids` as they were executed, oldest first."""
        # The order of a domain's servers is the order of their last transactions: the newest is the last one.
        self._domains: dict[int, dict[int, int]] = {}
        for gtid in gtids:
            self.update(*gtid)

    @classmethod
    def parse(cls, text: str, *, position: bool = False) -> MariadbState:
        """Read GTIDs separated by commas, those of a domain from the oldest to the newest.

        `position`: allow only one for each domain, as @slave_connect_state and @@gtid_slave_pos do.
        """
        out = cls()
        if not text.strip():
            return out
        at = 0
        for item in text.split(","):
            try:
                gtid = MariadbGtid.parse(item)
            except BinlogError as error:
                raise BinlogError(str(error), at) from None
            if position and gtid.domain in out._domains:
                raise BinlogError(f"expected one GTID for each domain, found a second one of domain {gtid.domain}", at)
            if gtid.server in out._domains.get(gtid.domain, ()):
                raise BinlogError(f"expected one GTID for each domain and server, found a second one: {gtid}", at)
            out.update(*gtid)
            at += len(item) + 1
        return out

    def update(self, domain: int, server: int, sequence: int) -> None:
        """A transaction was executed: it is the newest of its domain."""
        servers = self._domains.setdefault(domain, {})
        servers.pop(server, None)
        servers[server] = sequence

    def __iter__(self) -> Iterator[MariadbGtid]:
        """All entries: domains ascending, within a domain the newest last."""
        for domain in sorted(self._domains):
            for server, sequence in self._domains[domain].items():
                yield MariadbGtid(domain, server, sequence)

    def position(self) -> dict[int, MariadbGtid]:
        """The newest GTID of each domain, domains ascending."""
        return {gtid.domain: gtid for gtid in self}

    def newest(self, domain: int) -> MariadbGtid | None:
        """The newest GTID of a domain."""
        servers = self._domains.get(domain)
        if not servers:
            return None
        server = next(reversed(servers))
        return MariadbGtid(domain, server, servers[server])

    def last_sequence(self, domain: int, server: int) -> int | None:
        """The sequence number of a server's newest transaction in a domain."""
        return self._domains.get(domain, {}).get(server)

    def has(self, gtid: MariadbGtid) -> bool:
        """Whether the GTID is at or before its server's newest in its domain."""
        last = self.last_sequence(gtid.domain, gtid.server)
        return last is not None and gtid.sequence <= last

    def __str__(self) -> str:
        return ",".join(str(gtid) for gtid in self.position().values())

    def __repr__(self) -> str:
        return f"MariadbState.parse({self.to_json()!r})"

    def to_json(self) -> str:
        """All entries as text, as in @@gtid_binlog_state, the newest of each domain last."""
        return ",".join(str(gtid) for gtid in self)

    @classmethod
    def from_json(cls, value: str) -> MariadbState:
        return cls.parse(value)

    def encode(self) -> bytes:
        """The body of a GTID_LIST event (without flags)."""
        entries = list(self)
        if len(entries) > _COUNT_MASK:
            raise ValueError(f"a GTID list holds at most {_COUNT_MASK} GTIDs, found {len(entries)}")
        out = bytearray(_U32.pack(len(entries)))
        for gtid in entries:
            out += _ENTRY.pack(*gtid)
        return bytes(out)

    @classmethod
    def decode(cls, data: Buffer) -> MariadbState:
        """Read the body of a GTID_LIST event, all of `data`; the flags are ignored."""
        out = cls()
        out.apply_delta(data)
        return out

    def apply_delta(self, data: Buffer) -> None:
        """Execute the GTIDs of `data`, in the form of `encode`, in their order."""
        view = memoryview(data)
        if len(view) < 4:
            raise BinlogError(f"expected a GTID list of at least 4 bytes, found {len(view)}", 0)
        entries: int = _U32.unpack_from(view)[0] & _COUNT_MASK
        padding = 0 if entries or len(view) == 4 else _EMPTY_PADDING
        if len(view) != 4 + entries * _ENTRY.size + padding:
            raise BinlogError(f"expected a GTID list of {entries} GTIDs, found {len(view) - 4} bytes of them", 4)
        for domain, server, sequence in _ENTRY.iter_unpack(view[4 : 4 + entries * _ENTRY.size]):
            self.update(domain, server, sequence)

    def copy(self) -> MariadbState:
        out = MariadbState()
        out._domains = {domain: dict(servers) for domain, servers in self._domains.items()}
        return out

    def __bool__(self) -> bool:
        return bool(self._domains)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MariadbState) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # mutable
