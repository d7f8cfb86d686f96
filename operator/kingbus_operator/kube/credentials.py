"""Where the API server is and how to prove who we are: the pod's ServiceAccount, or a kubeconfig file."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kingbus_operator.api.types import Json

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class CredentialsError(Exception):
    """The API server can't be found; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API server and an identity. Data are PEM; files are read at each use, because kubelets replace tokens."""

    server: str
    ca_data: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    certificate_data: str | None = None
    key_data: str | None = field(default=None, repr=False)

    def bearer(self) -> str | None:
        """The token to send now. OSError when its file can't be read."""
        return self.token_file.read_text().strip() if self.token_file is not None else self.token

    def context(self) -> ssl.SSLContext:
        """TLS toward the API server, with our certificate if we have one."""
        context = ssl.create_default_context(cadata=self.ca_data)
        if self.certificate_data is not None and self.key_data is not None:
            # ssl only takes files; the key is never on a disk that outlives this call.
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "client.pem")
                file.touch(mode=0o600)
                file.write_text(self.certificate_data + "\n" + self.key_data)
                context.load_cert_chain(file)
        return context


def find(environ: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT) -> Credentials:
    """Those of the pod that we run in; else of ``KUBECONFIG`` or ``~/.kube/config``. CredentialsError."""
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if host and (folder / "token").is_file():
        address = f"[{host}]" if ":" in host else host
        server = f"https://{address}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}"
        return Credentials(server, ca_data=(folder / "ca.crt").read_text(), token_file=folder / "token")
    path = Path(environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not path.is_file():
        raise CredentialsError(f"neither in a pod with a ServiceAccount nor is there a kubeconfig file {path}")
    return from_kubeconfig(path)


def from_kubeconfig(path: Path) -> Credentials:
    """Those of the current context: tokens and certificates, in the file or in files that it names. CredentialsError.

    Plugins that fetch credentials (``exec``) are not run: the operator's place is in a pod.
    """
    document = yaml.safe_load(path.read_text())
    try:
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"])["user"]
        return Credentials(
            server=str(cluster["server"]),
            ca_data=_data(cluster, "certificate-authority", path.parent),
            token=user.get("token"),
            token_file=path.parent / user["tokenFile"] if "tokenFile" in user else None,
            certificate_data=_data(user, "client-certificate", path.parent),
            key_data=_data(user, "client-key", path.parent),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CredentialsError(f"{path}: expected a kubeconfig with a current context: {error}") from error


def _named(document: Json, section: str, name: str) -> dict[str, dict[str, str]]:
    entries = document[section]
    assert isinstance(entries, list)
    found: dict[str, dict[str, str]] = next(entry for entry in entries if entry["name"] == name)
    return found


def _data(section: Mapping[str, str], name: str, folder: Path) -> str | None:
    if f"{name}-data" in section:
        return base64.b64decode(section[f"{name}-data"]).decode()
    return (folder / section[name]).read_text() if name in section else None
