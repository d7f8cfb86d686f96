"""Consensus on the log: what may be committed, and who may propose.

`api` is what the rest of the node knows of it, `cluster` is what implements it; a cluster of one is nothing special.
`core` decides, on what `loop` and `transport` tell it; `journal` is its disk.
"""

from __future__ import annotations
