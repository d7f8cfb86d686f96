"""Consensus on the log: what may be committed, and who may propose.

`api` is what the rest of the node knows of it; `single` is the consensus of one node with itself.
"""

from __future__ import annotations
