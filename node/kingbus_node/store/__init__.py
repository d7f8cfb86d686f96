"""The log on disk: one file per segment is the truth, everything else is derived from it or tells how far it is
durable.

Reading order: `entry` (one entry's bytes), `segment` (one segment's files), `index` (the derived records), `state`
(what the entries add up to), `log` (the one writer), `reader` and `cursor` (the many readers, also in other processes).
Every byte of every file is described in ``docs/format.md``; why one file is the truth, in
``docs/decisions/0002-one-file-is-the-truth.md``.
"""

from __future__ import annotations
