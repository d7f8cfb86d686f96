"""The MySQL client/server protocol without I/O: bytes in, values out, and the other way round.

Nothing here opens a socket, reads a clock or starts a thread (h11 is the model), so every corner of the protocol can be
tested in microseconds. What holds sockets is ``kingbus_node.serve``.

Reading order: `packet` (framing), `capabilities`, `handshake`, `auth`, `commands`, `resultset`, `errors`.
Sources of facts: the chapter "Client/Server Protocol" of MySQL's Doxygen documentation, MariaDB's Knowledge Base
("Clients & Utilities / Client-Server Protocol"), and packets captured from MySQL 9.7.4 and 5.6.24, MariaDB 10.11.19
and 11.8.6.
"""
