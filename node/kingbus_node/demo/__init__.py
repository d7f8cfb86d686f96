"""Private, real MySQL and MariaDB servers on this machine, and the demonstration that uses them.

`packages` gets a server's Debian packages without installing them, `servers` knows which servers there are and where
they live, `instance` runs one, `replication` speaks the SQL that makes one a replica of another, `compare` says
whether two hold the same rows. The integration tests stand on the same modules.
"""

from __future__ import annotations
