"""The operator's own CA: one per cluster, and one certificate that all its pods share.

``renewed(existing, names, now)`` is a step function: given what the Secrets hold and the time, it gives what they shall
hold, which is the same when nothing is due. Rotation never breaks a connection, because trust comes first and goes
last:

1. A third of its life before the CA ends, a *next* CA is made. Its certificate is published in ``ca.crt`` beside the
   present one; nothing is signed by it yet.
2. A day later, when everybody who follows ``ca.crt`` knows it, it takes over: it signs a new certificate for the pods.
3. The *previous* CA stays in ``ca.crt`` until it ends.

The pods' certificate is renewed when a third of its life is left, and when names are missing in it. Pods follow the
mounted files. Keys are ECDSA P-256; serial numbers are random (RFC 5280, section 4.1.2.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kingbus_operator.build.common import Certificates, Names

CA_LIFE = timedelta(days=5 * 365)
LEAF_LIFE = timedelta(days=90)
OVERLAP = timedelta(days=1)
"""How long a next CA is only trusted before it signs: longer than any kubelet takes to update mounted files."""
_EARLY = timedelta(minutes=5)
"""Certificates are valid from a little in the past, for clocks that are late."""


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def ends(self) -> datetime:
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class _Leaf:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class _Held:
    authority: _Authority
    upcoming: _Authority | None
    previous: tuple[x509.Certificate, ...]
    leaf: _Leaf | None


def host_names(names: Names, cluster_domain: str) -> tuple[str, ...]:
    """The DNS names under which pods are reached: each by its own, and by the Services."""
    result = ["localhost"]
    for service in (names.cluster, names.replicas, f"*.{names.nodes}"):
        short = f"{service}.{names.namespace}"
        result += [service, short, f"{short}.svc", f"{short}.svc.{cluster_domain}"]
    return tuple(name for name in result if name != f"*.{names.nodes}")  # a wildcard needs two labels behind it


def renewed(existing: Certificates | None, common_name: str, names: Sequence[str], now: datetime) -> Certificates:
    """What the two Secrets shall hold. Returns ``existing`` itself when nothing is due.

    Secrets that are missing, damaged or do not belong together are made anew.
    """
    held = _load(existing) if existing is not None else None
    if held is None:
        return _dump(_with_leaf(_Held(_make_authority(common_name, now), None, (), None), names, now))
    step = _rotate(held, common_name, now)
    if step.leaf is None or not _good(step.leaf, step.authority, names, now):
        step = _with_leaf(step, names, now)
    if step == held:
        assert existing is not None
        return existing
    return _dump(step)


def _rotate(held: _Held, common_name: str, now: datetime) -> _Held:
    previous = tuple(certificate for certificate in held.previous if certificate.not_valid_after_utc > now)
    held = replace(held, previous=previous) if previous != held.previous else held
    if now >= held.authority.ends:  # nobody trusts it any more: there is nothing to be gentle with
        authority = held.upcoming or _make_authority(common_name, now)
        return _Held(authority, None, previous, None)
    if held.upcoming is None:
        if held.authority.ends - now < CA_LIFE / 3:
            return replace(held, upcoming=_make_authority(common_name, now))
        return held
    if now >= held.upcoming.certificate.not_valid_before_utc + _EARLY + OVERLAP:
        return _Held(held.upcoming, None, (*previous, held.authority.certificate), None)
    return held


def _good(leaf: _Leaf, authority: _Authority, names: Sequence[str], now: datetime) -> bool:
    certificate = leaf.certificate
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - life / 3:
        return False
    try:
        certificate.verify_directly_issued_by(authority.certificate)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return set(names) <= set(alternatives.get_values_for_type(x509.DNSName))


def _make_authority(common_name: str, now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Two CAs of one name would be hard to tell apart for those who search an issuer by name.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{common_name[:48]} CA {serial % 10**8:08}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate, key)


def _with_leaf(held: _Held, names: Sequence[str], now: datetime) -> _Held:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = held.authority
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[-1][-64:])]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(min(now + LEAF_LIFE, authority.ends))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return replace(held, leaf=_Leaf(certificate, key))


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(secrets: Certificates) -> _Held | None:
    try:
        authority = _authority(secrets.ca_secret, "tls")
        upcoming = _authority(secrets.ca_secret, "next") if "next.crt" in secrets.ca_secret else None
        kept = secrets.ca_secret.get("previous.crt")
        previous = tuple(x509.load_pem_x509_certificates(kept.encode())) if kept else ()
        leaf = _leaf(secrets.tls_secret)
        held = _Held(authority, upcoming, previous, leaf)
        if secrets.tls_secret.get("ca.crt") != _bundle(held):
            held = replace(held, leaf=None)
    except (KeyError, ValueError, TypeError):
        return None
    return held


def _authority(values: Mapping[str, str], prefix: str) -> _Authority:
    certificate = x509.load_pem_x509_certificate(values[f"{prefix}.crt"].encode())
    return _Authority(certificate, _private_key(values[f"{prefix}.key"], certificate))


def _leaf(values: Mapping[str, str]) -> _Leaf | None:
    try:
        certificate = x509.load_pem_x509_certificate(values["tls.crt"].encode())
        return _Leaf(certificate, _private_key(values["tls.key"], certificate))
    except (KeyError, ValueError, TypeError):
        return None


def _private_key(text: str, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(text.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("the key does not belong to the certificate")
    return key


def _dump(held: _Held) -> Certificates:
    assert held.leaf is not None
    authority = {"tls.crt": _pem(held.authority.certificate), "tls.key": _key_pem(held.authority.key)}
    if held.upcoming is not None:
        authority |= {"next.crt": _pem(held.upcoming.certificate), "next.key": _key_pem(held.upcoming.key)}
    if held.previous:
        authority["previous.crt"] = "".join(map(_pem, held.previous))
    leaf = {
        "ca.crt": _bundle(held),
        "tls.crt": _pem(held.leaf.certificate),
        "tls.key": _key_pem(held.leaf.key),
    }
    return Certificates(authority, leaf)


def _bundle(held: _Held) -> str:
    upcoming = (held.upcoming.certificate,) if held.upcoming is not None else ()
    return "".join(map(_pem, (held.authority.certificate, *upcoming, *held.previous)))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def expires(secrets: Certificates) -> datetime:
    """When the pods' certificate ends. ValueError, KeyError."""
    return x509.load_pem_x509_certificate(secrets.tls_secret["tls.crt"].encode()).not_valid_after_utc.astimezone(UTC)
