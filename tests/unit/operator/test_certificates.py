"""The operator's own CA: renewed in time, rotated without a moment in which somebody can't verify somebody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from kingbus_operator.build.certificates import CA_LIFE, LEAF_LIFE, OVERLAP, expires, host_names, renewed
from kingbus_operator.build.common import Certificates, Names

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = host_names(Names("orders", "shop"), "cluster.local")


def make(existing: Certificates | None, now: datetime, names: tuple[str, ...] = NAMES) -> Certificates:
    return renewed(existing, "orders.shop", names, now)


def trusted(secrets: Certificates) -> list[x509.Certificate]:
    """What is in ca.crt."""
    return x509.load_pem_x509_certificates(secrets.tls_secret["ca.crt"].encode())


def verifies(trusting: Certificates, shown: Certificates, now: datetime) -> bool:
    """Whether one pod, with its mounted files, verifies another."""
    leaf = x509.load_pem_x509_certificate(shown.tls_secret["tls.crt"].encode())
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        return False
    for ca in trusted(trusting):
        if ca.subject == leaf.issuer and ca.not_valid_before_utc <= now < ca.not_valid_after_utc:
            leaf.verify_directly_issued_by(ca)
            return True
    return False


def test_a_new_cluster_gets_a_ca_and_a_certificate_for_all_its_names() -> None:
    made = make(None, START)
    leaf = x509.load_pem_x509_certificate(made.tls_secret["tls.crt"].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = names.get_values_for_type(x509.DNSName)
    assert {"localhost", "orders", "orders.shop.svc", "orders-replicas.shop.svc.cluster.local"} <= set(found)
    assert "*.orders-nodes.shop.svc" in found
    assert verifies(made, made, START)
    assert expires(made) == START + LEAF_LIFE
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(usage)) == 2, "pods are servers and, toward one another, clients"


def test_nothing_is_made_anew_while_nothing_is_due() -> None:
    made = make(None, START)
    assert make(made, START + LEAF_LIFE / 2) is made


def test_the_key_of_the_ca_is_not_where_pods_can_see_it() -> None:
    made = make(None, START)
    assert set(made.tls_secret) == {"ca.crt", "tls.crt", "tls.key"}
    assert made.ca_secret["tls.key"] not in made.tls_secret.values()
    assert "PRIVATE" not in repr(made)


def test_the_certificate_is_renewed_when_a_third_of_its_life_is_left() -> None:
    made = make(None, START)
    now = START + LEAF_LIFE * 2 / 3 + timedelta(hours=1)
    after = make(made, now)
    assert after.tls_secret["tls.crt"] != made.tls_secret["tls.crt"]
    assert after.ca_secret == made.ca_secret
    assert verifies(made, after, now)
    assert verifies(after, made, now)


def test_the_certificate_is_renewed_when_it_lacks_a_name() -> None:
    made = make(None, START)
    after = make(made, START, (*NAMES, "db.example.com"))
    leaf = x509.load_pem_x509_certificate(after.tls_secret["tls.crt"].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "db.example.com" in names.get_values_for_type(x509.DNSName)


def test_for_years_whoever_is_a_day_behind_verifies_and_is_verified() -> None:
    step = timedelta(hours=12)
    history: list[tuple[datetime, Certificates]] = []
    now, present = START, make(None, START)
    authorities = {present.ca_secret["tls.crt"]}
    while now < START + 1.5 * CA_LIFE:
        present = make(present, now)
        authorities.add(present.ca_secret["tls.crt"])
        if not history or history[-1][1] is not present:
            history.append((now, present))
        late = [secrets for since, secrets in history if since <= now - OVERLAP + step]
        if late and (late[-1] is not present or now.day == 1):
            assert verifies(late[-1], present, now), now
            assert verifies(present, late[-1], now), now
        now += step
    assert len(authorities) >= 3, "the CA was rotated"
    assert len(trusted(present)) <= 3, "and old ones do not pile up"


@pytest.mark.parametrize("damage", ["ca", "leaf", "bundle", "mixed", "gone"])
def test_what_is_damaged_or_does_not_belong_together_is_made_anew(damage: str) -> None:
    made, other = make(None, START), make(None, START)
    ca, leaf = dict(made.ca_secret), dict(made.tls_secret)
    if damage == "ca":
        ca["tls.crt"] = "no certificate"
    elif damage == "leaf":
        leaf["tls.key"] = other.tls_secret["tls.key"]
    elif damage == "bundle":
        leaf["ca.crt"] = other.tls_secret["ca.crt"]
    elif damage == "mixed":
        leaf = dict(other.tls_secret)
    else:
        del leaf["tls.crt"]
    after = make(Certificates(ca, leaf), START)
    assert verifies(after, after, START)
    assert (after.ca_secret == made.ca_secret) == (damage != "ca")


def test_after_years_without_an_operator_it_begins_anew() -> None:
    made = make(None, START)
    now = START + 2 * CA_LIFE
    after = make(made, now)
    assert verifies(after, after, now)
