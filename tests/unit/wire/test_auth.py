"""Both authentication plugins: the hashes of the real ones, and every path of the conversation."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.wire.auth import (
    Account,
    Login,
    Outcome,
    Plugin,
    Sha2Stored,
    Step,
    auth_switch,
    check_native,
    check_sha2,
    make_scramble,
    native_hash,
    native_response,
    sha2_digest,
    sha2_response,
    sha256_crypt,
)

PASSWORD = b"replpw"
SCRAMBLE = b"0123456789abcdefghij"
# authentication_string of a user with the password "replpw", as MySQL 9.7.4 stored it (10,000 rounds).
STORED = bytes.fromhex(
    "244124303041247E44552A72612515321C73795F4E19645E330118454D616153426E7949312E3533674E41335854583430644A7236587648"
    "696E6169446C554A43595A75552F"
)
OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
KEY = rsa.generate_private_key(65537, 2048)


def decrypt(data: bytes) -> bytes | None:
    try:
        return KEY.decrypt(data, OAEP)
    except ValueError:
        return None


def encrypted(password: bytes, scramble: bytes = SCRAMBLE) -> bytes:
    clear = password + b"\0"
    mask = (scramble * (len(clear) // 20 + 1))[: len(clear)]
    return KEY.public_key().encrypt(bytes(a ^ b for a, b in zip(clear, mask, strict=True)), OAEP)


def account(*plugins: Plugin, stored: bool = False) -> Account:
    return Account(
        "repl",
        plugins or (Plugin.CACHING_SHA2, Plugin.NATIVE),
        native=native_hash(PASSWORD),
        sha2=None if stored else sha2_digest(PASSWORD),
        sha2_stored=Sha2Stored.parse(STORED) if stored else None,
    )


def login(who: Account | None, *, secure: bool = False, greeting: Plugin = Plugin.CACHING_SHA2) -> Login:
    return Login(who, scramble=SCRAMBLE, greeting_plugin=greeting, secure=secure, public_key=b"PEM", decrypt=decrypt)


def sha2(password: bytes = PASSWORD) -> bytes:
    return sha2_response(password, SCRAMBLE)


FULL = Step(Outcome.CONTINUE, (b"\x01\x04",))
FAST = Step(Outcome.ACCEPTED, (b"\x01\x03",))


def test_the_native_hash_is_the_one_that_mysql_prints() -> None:
    assert native_hash(b"password").hex().upper() == "2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"


def test_a_native_response_proves_the_password_and_no_other() -> None:
    assert check_native(native_hash(PASSWORD), SCRAMBLE, native_response(PASSWORD, SCRAMBLE))
    assert not check_native(native_hash(b"other"), SCRAMBLE, native_response(PASSWORD, SCRAMBLE))
    assert not check_native(native_hash(PASSWORD), SCRAMBLE[::-1], native_response(PASSWORD, SCRAMBLE))
    assert not check_native(native_hash(PASSWORD), SCRAMBLE, b"short")


def test_a_sha2_response_proves_the_password_and_no_other() -> None:
    assert check_sha2(sha2_digest(PASSWORD), SCRAMBLE, sha2())
    assert not check_sha2(sha2_digest(b"other"), SCRAMBLE, sha2())
    assert not check_sha2(sha2_digest(PASSWORD), SCRAMBLE, sha2()[:-1])


def test_sha256_crypt_gives_the_published_values() -> None:
    # From U. Drepper's specification, and crypt(3).
    assert sha256_crypt(b"Hello world!", b"saltstring", 5000) == b"5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"
    assert sha256_crypt(b"Hello world!", b"saltstringsaltst", 10000) == b"3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"


def test_a_hash_that_mysql_stored_is_checked() -> None:
    stored = Sha2Stored.parse(STORED)
    assert stored.rounds == 10000
    assert stored.matches(PASSWORD)
    assert not stored.matches(b"replpw2")


@pytest.mark.parametrize("text", [b"", b"$A$005$short", b"$B" + STORED[2:], b"$A$zzz$" + STORED[7:], STORED + b"x"])
def test_a_damaged_stored_hash_is_refused_without_repeating_it(text: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        Sha2Stored.parse(text)
    assert STORED[30:].decode() not in str(caught.value)


@given(st.binary(min_size=20, max_size=20))
def test_scrambles_are_7_bit_and_hold_neither_nul_nor_dollar(random: bytes) -> None:
    scramble = make_scramble(random)
    assert len(scramble) == 20
    assert all(0 < value < 128 and value != 0x24 for value in scramble)


# -- conversations


def test_a_known_password_is_accepted_at_once() -> None:
    assert login(account()).begin("caching_sha2_password", sha2()) == FAST


def test_a_wrong_password_leads_to_full_authentication_and_is_denied() -> None:
    talk = login(account(), secure=True)
    assert talk.begin("caching_sha2_password", sha2(b"wrong")) == FULL
    assert talk.proceed(b"wrong\0").outcome is Outcome.DENIED
    assert talk.using_password


def test_a_stored_hash_needs_full_authentication_once() -> None:
    who = account(Plugin.CACHING_SHA2, stored=True)
    talk = login(who, secure=True)
    assert talk.begin("caching_sha2_password", sha2()) == FULL
    assert talk.proceed(PASSWORD + b"\0").outcome is Outcome.ACCEPTED
    assert login(who).begin("caching_sha2_password", sha2()) == FAST


def test_full_authentication_without_tls_goes_by_rsa() -> None:
    talk = login(account(Plugin.CACHING_SHA2, stored=True))
    assert talk.begin("caching_sha2_password", sha2()) == FULL
    assert talk.proceed(b"\x02") == Step(Outcome.CONTINUE, (b"\x01PEM",))
    assert talk.proceed(encrypted(PASSWORD)).outcome is Outcome.ACCEPTED


def test_a_client_that_has_the_public_key_need_not_ask() -> None:
    talk = login(account(Plugin.CACHING_SHA2, stored=True))
    talk.begin("caching_sha2_password", sha2())
    assert talk.proceed(encrypted(PASSWORD)).outcome is Outcome.ACCEPTED


def test_a_long_password_is_masked_with_the_repeated_scramble() -> None:
    password = bytes(range(33, 33 + 90))
    who = Account("repl", (Plugin.CACHING_SHA2,), sha2=sha2_digest(password))
    talk = login(who)
    talk.begin("caching_sha2_password", sha2(b"wrong"))
    assert talk.proceed(encrypted(password)).outcome is Outcome.ACCEPTED


def test_the_public_key_is_given_once_only() -> None:
    talk = login(account(Plugin.CACHING_SHA2, stored=True))
    talk.begin("caching_sha2_password", sha2())
    talk.proceed(b"\x02")
    assert talk.proceed(b"\x02").outcome is Outcome.DENIED


def test_a_password_in_the_clear_without_tls_is_refused() -> None:
    """What a MariaDB replica does with a cold cache (captured); MySQL answers ERR 1045 as well."""
    talk = login(account(Plugin.CACHING_SHA2, stored=True))
    talk.begin("caching_sha2_password", sha2())
    assert talk.proceed(PASSWORD + b"\0").outcome is Outcome.DENIED


def test_a_mariadb_replica_gets_the_native_plugin_by_a_switch() -> None:
    """It names mysql_native_password with no data at all to a MySQL greeting (captured)."""
    talk = login(account())
    assert talk.begin("mysql_native_password", b"") == Step(Outcome.CONTINUE, (auth_switch(Plugin.NATIVE, SCRAMBLE),))
    assert talk.proceed(native_response(PASSWORD, SCRAMBLE)).outcome is Outcome.ACCEPTED


def test_a_mariadb_replica_is_switched_to_caching_sha2_when_the_account_allows_no_other() -> None:
    talk = login(account(Plugin.CACHING_SHA2))
    assert talk.begin("mysql_native_password", b"").packets == (auth_switch(Plugin.CACHING_SHA2, SCRAMBLE),)
    assert talk.proceed(sha2()) == FAST


def test_a_mysql_client_is_switched_at_a_mariadb_greeting() -> None:
    talk = login(account(), greeting=Plugin.NATIVE)
    assert talk.begin("caching_sha2_password", b"").packets == (auth_switch(Plugin.CACHING_SHA2, SCRAMBLE),)
    assert talk.proceed(sha2()) == FAST


def test_data_for_another_plugin_than_the_greetings_is_never_used() -> None:
    talk = login(account())
    step = talk.begin("mysql_native_password", native_response(PASSWORD, SCRAMBLE))
    assert step.outcome is Outcome.CONTINUE


def test_an_unknown_plugin_is_switched_to_the_accounts_first() -> None:
    step = login(account(Plugin.NATIVE)).begin("sha256_password", b"x")
    assert step.packets == (auth_switch(Plugin.NATIVE, SCRAMBLE),)


def test_a_client_without_plugins_uses_the_native_one_or_is_too_old() -> None:
    response = native_response(PASSWORD, SCRAMBLE)
    assert login(account()).begin(None, response).outcome is Outcome.ACCEPTED
    assert login(account(Plugin.CACHING_SHA2)).begin(None, response).outcome is Outcome.UNSUPPORTED


@pytest.mark.parametrize("data", [b"", b"\0"])
def test_an_empty_password_is_only_accepted_for_an_account_with_an_empty_password(data: bytes) -> None:
    empty = Account("e", tuple(Plugin), empty=True)
    assert login(empty).begin("caching_sha2_password", data).outcome is Outcome.ACCEPTED
    assert login(account()).begin("caching_sha2_password", data).outcome is Outcome.DENIED
    assert login(None).begin("caching_sha2_password", data).outcome is Outcome.DENIED


def test_a_given_password_does_not_fit_an_account_with_an_empty_one() -> None:
    talk = login(Account("e", tuple(Plugin), empty=True), secure=True)
    assert talk.begin("caching_sha2_password", sha2()) == FULL
    assert talk.proceed(PASSWORD + b"\0").outcome is Outcome.DENIED


def test_an_unknown_user_goes_the_way_of_a_known_one_and_is_denied() -> None:
    for secure, last in ((True, b"guess\0"), (False, encrypted(b"guess"))):
        known, unknown = login(account(), secure=secure), login(None, secure=secure)
        first = known.begin("caching_sha2_password", sha2(b"guess"))
        assert unknown.begin("caching_sha2_password", sha2(b"guess")) == first
        assert known.proceed(last) == unknown.proceed(last) == Step(Outcome.DENIED)
    assert (
        login(None).begin("mysql_native_password", b"").packets
        == login(account()).begin("mysql_native_password", b"").packets
    )


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, *Plugin]),
)
def test_arbitrary_answers_end_in_denial(
    answers: list[bytes], secure: bool, stored: bool, plugin: Plugin | None
) -> None:
    talk = login(account(stored=stored), secure=secure)
    step = talk.begin(plugin, answers[0])
    for answer in answers[1:]:
        if step.outcome is not Outcome.CONTINUE:
            break
        step = talk.proceed(answer)
    assert step.outcome is not Outcome.ACCEPTED
