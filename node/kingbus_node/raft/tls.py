"""Mutual TLS between nodes: both sides show a certificate of the cluster's CA that names the address they claim to be.

Who may take part is decided by membership, and a member is known by its address; so that is what a certificate has to
cover: the host of the address, as a DNS name or an IP address among its subjectAltNames (RFC 6125; a wildcard stands
for one whole label, the first). The same check is made on both sides, after the greeting said who is there.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Sequence

from kingbus_node.config import Address
from kingbus_node.raft.errors import ProtocolError, RaftError
from kingbus_node.raft.options import TlsFiles
from kingbus_node.util.followed import Followed

logger = logging.getLogger(__name__)


class PeerTlsError(RaftError):
    """A file of raft.tls cannot be used; the text names it and never shows what is in it."""


class PeerTls:
    """The contexts for new connections, made again when the files change. Any thread.

    :raises PeerTlsError: now; later the old ones stay, and the log says so
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._contexts = Followed(
            (files.cert, files.key, files.ca), self._load, PeerTlsError, "the certificate for peers", logger
        )

    def client(self) -> ssl.SSLContext:
        """For connections that this node makes."""
        return self._contexts.get()[0]

    def server(self) -> ssl.SSLContext:
        """For connections that this node accepts."""
        return self._contexts.get()[1]

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        files = self._files
        contexts = []
        for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
            context = ssl.SSLContext(protocol)
            context.minimum_version = ssl.TLSVersion.TLSv1_3  # both sides are nodes
            context.check_hostname = False  # see `check_certificate`
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(files.ca)
            except (OSError, ValueError) as error:
                raise PeerTlsError(f"raft.tls.ca {files.ca}: expected CA certificates in PEM: {error}") from error
            try:
                context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
            except (OSError, ValueError) as error:
                raise PeerTlsError(
                    f"raft.tls.cert {files.cert} and raft.tls.key {files.key}: expected a certificate and its private "
                    f"key in PEM: {error}"
                ) from error
            contexts.append(context)
        return contexts[0], contexts[1]


def _no_passphrase() -> str:
    """OpenSSL would ask for it on the terminal."""
    raise ValueError("the private key has a passphrase, which a server cannot be asked for")


def peer_names(connection: ssl.SSLSocket) -> list[str]:
    """The DNS names and IP addresses in the certificate that the peer has shown."""
    certificate = connection.getpeercert() or {}
    names = []
    for kind, name in _alternative_names(certificate.get("subjectAltName", ())):
        if kind in ("DNS", "IP Address"):
            names.append(name)
    return names


def _alternative_names(value: object) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if isinstance(value, tuple):
        found = [(str(pair[0]), str(pair[1])) for pair in value if isinstance(pair, tuple) and len(pair) == 2]
    return found


def check_certificate(names: Sequence[str], address: str) -> None:
    """Whether a certificate for `names` may speak for `address`, ``host:port``.

    :raises ProtocolError: it may not
    """
    try:
        host = Address.parse(address).host
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    if not any(_covers(name, host) for name in names):
        raise ProtocolError(f"its certificate is for {', '.join(names) or 'no name'}, expected one for {host}")


def _covers(name: str, host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name, host = name.lower().rstrip("."), host.lower().rstrip(".")
        if name.startswith("*."):
            return host.partition(".")[2] == name[2:] != ""
        return name == host
    try:
        return ipaddress.ip_address(name) == address
    except ValueError:
        return False
