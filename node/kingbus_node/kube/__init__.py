"""What a node does by itself when it runs in a Kubernetes pod: it points the leader Service at itself when elected.

Small on purpose: ``http.client`` and the pod's ServiceAccount token, no Kubernetes package. Failover works while the
operator is down.
"""

from __future__ import annotations
