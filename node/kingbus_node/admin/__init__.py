"""The node's admin side: what it tells over HTTP about itself, for people, probes, Prometheus and the command line.

``views`` is what there is to tell (plain values), ``metrics`` tells it to Prometheus, ``http`` is the server. None of
them reaches into the node: they ask a ``views.Node``, which answers with a snapshot.
"""

from __future__ import annotations
