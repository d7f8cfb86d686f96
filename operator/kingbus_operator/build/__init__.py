"""The Kubernetes objects that a cluster is made of: one pure builder per kind.

Builders take an ``Inputs`` and give manifests as plain dictionaries, for server-side apply: exactly the fields that the
operator owns, nothing that the API server defaults, nothing empty.
"""

from __future__ import annotations
