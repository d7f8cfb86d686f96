"""The node's configuration file, the same for all pods: what differs between them comes from their environment."""

from __future__ import annotations

from decimal import Decimal

import yaml

from kingbus_operator.api.quantity import quantity
from kingbus_operator.api.types import Flavor, Json, StartFrom, TlsMode
from kingbus_operator.build.common import (
    ADMIN_PORT,
    CONFIG_DIR,
    DATA_DIR,
    FOUNDERS_ANNOTATION,
    MYSQL_PORT,
    RAFT_PORT,
    Inputs,
    digest,
    manifest,
)

FILE = "kingbus.yaml"

_TLS_MODES = {
    TlsMode.DISABLED: "disabled",
    TlsMode.PREFERRED: "preferred",
    TlsMode.REQUIRED: "required",
    TlsMode.VERIFY_CA: "verify-ca",
    TlsMode.VERIFY_IDENTITY: "verify-identity",
}
_FLAVORS = {Flavor.AUTO: "auto", Flavor.MYSQL: "mysql", Flavor.MARIADB: "mariadb"}
_LEAST_FREE = Decimal(64 * 1024**2)


def configmap(inputs: Inputs) -> Json:
    """ConfigMap ``<name>-config``."""
    text = yaml.safe_dump(node_config(inputs), sort_keys=False, width=120)
    return manifest(
        inputs,
        "v1",
        "ConfigMap",
        inputs.names.config,
        annotations={FOUNDERS_ANNOTATION: str(inputs.founders)},
        data={FILE: text},
    )


def config_digest(inputs: Inputs) -> str:
    """Changes when nodes have to be restarted to see a changed configuration.

    Most of ``source`` only seeds a cluster, later the log holds it: a change of that restarts nothing. What names files
    stays with the nodes.
    """
    config = node_config(inputs)
    source = config["source"]
    assert isinstance(source, dict)
    files = {key: value for key, value in source.items() if key.endswith("_file")}
    tls = {key: value for key, value in source["tls"].items() if key != "mode"}
    return digest({**config, "source": {**files, "tls": tls}})


def source_settings(inputs: Inputs) -> Json:
    """What of ``source`` is held by the cluster's log and may change there, as ``PUT /v1/source`` takes it."""
    source = _source(inputs)
    tls = source["tls"]
    assert isinstance(tls, dict)
    kept: Json = {key: source[key] for key in ("flavor", "server_id", "semi_sync", "compression")}
    return {**kept, "tls": {"mode": tls["mode"]}}


def node_config(inputs: Inputs) -> Json:
    """What ``kingbus node --config`` reads; ``docs/configuration.md`` describes the keys."""
    spec, names = inputs.cluster.spec, inputs.names
    tls = f"{CONFIG_DIR}/tls"
    access = f"{CONFIG_DIR}/access-tls" if uses_access_certificate(inputs) else tls
    serve: Json = {
        "listen": f"0.0.0.0:{MYSQL_PORT}",
        "server_id": spec.access.server_id,
        "users_file": f"{CONFIG_DIR}/users",
        "tls": {"cert": f"{access}/tls.crt", "key": f"{access}/tls.key", "require": spec.access.tls.require},
    }
    size = quantity(spec.storage.size)
    retention = spec.storage.retention
    return {
        "node": {"data_dir": DATA_DIR},
        "raft": {
            "listen": f"0.0.0.0:{RAFT_PORT}",
            "peers": [names.address(names.pod(ordinal)) for ordinal in range(inputs.founders)],
            "join": True,  # pods that come later are added by the operator
            "tls": {"ca": f"{tls}/ca.crt", "cert": f"{tls}/tls.crt", "key": f"{tls}/tls.key"},
        },
        "serve": serve,
        "source": _source(inputs),
        "storage": {
            "retention": {
                "max_age": retention.max_age,
                "max_bytes": int(quantity(retention.max_bytes) if retention.max_bytes else size * 4 / 5),
                "keep_for_replicas": retention.keep_for_replicas,
            },
            # A twentieth of the volume: a fixed number would be nothing on a big one and everything on a small one.
            "min_free_bytes": int(max(_LEAST_FREE, size / 20)),
        },
        "admin": {
            "listen": f"0.0.0.0:{ADMIN_PORT}",
            "token_file": f"{CONFIG_DIR}/admin/token",
            "tls": {"ca": f"{tls}/ca.crt", "cert": f"{tls}/tls.crt", "key": f"{tls}/tls.key"},
        },
        "log": {"format": "json"},
    }


def _source(inputs: Inputs) -> Json:
    source = inputs.cluster.spec.source
    tls: Json = {"mode": _TLS_MODES[source.tls.mode]}
    if source.tls.secret_ref is not None:
        folder = f"{CONFIG_DIR}/source-tls"
        if source.tls.mode in (TlsMode.VERIFY_CA, TlsMode.VERIFY_IDENTITY):
            tls["ca"] = f"{folder}/ca.crt"
        if inputs.source_certificate:
            tls |= {"cert": f"{folder}/tls.crt", "key": f"{folder}/tls.key"}
    start = source.start
    return {
        "endpoints": [
            f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"
            for endpoint in source.endpoints
        ],
        "flavor": _FLAVORS[source.flavor],
        "user_file": f"{CONFIG_DIR}/source/username",
        "password_file": f"{CONFIG_DIR}/source/password",
        "server_id": source.server_id,
        "semi_sync": source.semi_sync,
        "compression": [str(one) for one in source.compression],
        "tls": tls,
        "start": start.gtid_set if start.from_ is StartFrom.GTID_SET else start.from_.value.lower(),
    }


def uses_access_certificate(inputs: Inputs) -> bool:
    """Whether replicas see another certificate than that of the operator's own CA."""
    tls = inputs.cluster.spec.access.tls
    return tls.secret_ref is not None or tls.issuer_ref is not None
