"""Programs that people point at a source, pointed at a node: whether each reads what the source wrote.

`programs` builds the ones that are not written in Python, `reading` runs them and compares what they have read with the
source, `compatibility` notes what passed for docs/compatibility.md.
"""
