"""The Kubernetes operator of Kingbus: it makes a ``BinlogCluster`` be what its spec says, and keeps it so.

Read from the inside out:

- ``api``: what a BinlogCluster is. One Python model, from which the CustomResourceDefinition is generated.
- ``build``: the Kubernetes objects that a cluster is made of, one pure builder per kind.
- ``planning``: ``plan(desired, observed) -> actions``, the decisions, and ``status``, what they look like from outside.
  Pure: no network, no clock.
- ``kube``: a small client of the Kubernetes API, and of the nodes' admin API.
- ``shell``: observe, plan, apply, tell; a queue of names; leadership among operators. No decisions.
- ``main``: the command ``kingbus-operator``.
"""

from __future__ import annotations
