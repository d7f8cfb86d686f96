"""What a ``BinlogCluster`` is: the model of its spec and status, and the CustomResourceDefinition made from it."""

from __future__ import annotations

GROUP = "kingbus.io"
VERSION = "v1alpha1"
KIND = "BinlogCluster"
PLURAL = "binlogclusters"
API_VERSION = f"{GROUP}/{VERSION}"
