"""Real servers for the tests: fixtures, a Kingbus node as a process, a proxy that cuts connections, and workloads.

The servers themselves come from `kingbus_node.demo`, which the demonstration uses too; `make servers` fetches them.
"""

from __future__ import annotations
