"""The events that a dump invents: they tell a replica where it is when no event of the log does.

They carry the server's own id, no timestamp, and a checksum if the file that they are about has checksums; before the
first file's FORMAT_DESCRIPTION was sent, if the client asked for checksums. (Captured from MySQL 9.7.4 and MariaDB
10.11.19: a client that SET 'NONE' gets its first ROTATE without a checksum, and everything after as it is in the file.)
"""

from __future__ import annotations

from dataclasses import dataclass

from kingbus_node.binlog.build import gtid_list_event, heartbeat_event, rotate_event
from kingbus_node.binlog.mariadb import MariadbState


@dataclass(slots=True)
class Artificial:
    """Makes the invented events of one dump.

    server_id: the node's own. heartbeat_version: 1 or 2. checksum: whether events end in a CRC32. file: the name of the
    file being sent.
    """

    server_id: int
    heartbeat_version: int
    checksum: bool
    file: str = ""

    def rotate(self, position: int) -> bytes:
        """The events that follow are of `file`, from `position` on."""
        return rotate_event(self.file, server_id=self.server_id, checksum=self.checksum, position=position)

    def heartbeat(self, position: int) -> bytes:
        """There is nothing for the replica before `position`."""
        return heartbeat_event(
            self.file, position, server_id=self.server_id, version=self.heartbeat_version, checksum=self.checksum
        )

    def gtid_list(self, state: MariadbState, position: int, *, until_reached: bool = False) -> bytes:
        """What was passed, sent or not, up to `position`."""
        return gtid_list_event(
            state, server_id=self.server_id, checksum=self.checksum, log_pos=position, until_reached=until_reached
        )
