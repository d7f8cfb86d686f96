"""Proving who one is: mysql_native_password and caching_sha2_password, as the server sees them.

1. The greeting names a plugin and gives a scramble (20 random bytes). The client answers with a name and data for that
   plugin, or names another plugin.
2. The server picks the plugin: the client's if the account allows it, else the account's first one. Data made for
   another plugin than the greeting's is not used: a MariaDB replica sends none in that case and waits (captured).
   AuthSwitchRequest (0xfe, plugin, scramble) asks again.
3. mysql_native_password: SHA1(password) XOR SHA1(scramble + SHA1(SHA1(password))). The server keeps
   SHA1(SHA1(password)), printed as "*" and 40 hex digits.
4. caching_sha2_password: SHA256(password) XOR SHA256(SHA256(SHA256(password)) + scramble). A server that knows
   SHA256(SHA256(password)) answers AuthMoreData 03 (fast authentication) and OK. One that only knows the account's
   stored hash ("$A$005$", 20 bytes of salt, 43 characters of SHA-256 crypt) or finds another password answers
   AuthMoreData 04: the client then sends the password itself, NUL-terminated, inside TLS; or, without TLS, asks for an
   RSA public key (02) and sends the password, XORed with the scramble, encrypted (RSA-OAEP). A password in the clear
   without TLS is refused, as MySQL does.
5. An empty password answers with nothing (or one NUL).

An account that does not exist goes through the same packets as one that does, so that names cannot be probed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from kingbus_node.wire.handshake import SCRAMBLE_LENGTH


class Plugin(StrEnum):
    """Authentication plugins that a node knows."""

    CACHING_SHA2 = "caching_sha2_password"
    NATIVE = "mysql_native_password"


FAST_AUTH_OK: Final = 0x03
FULL_AUTH: Final = 0x04
REQUEST_PUBLIC_KEY: Final = b"\x02"
_MORE_DATA: Final = b"\x01"
_SWITCH: Final = b"\xfe"
_MAX_PASSWORD: Final = 255


# -- scrambles and hashes ----------------------------------------------------------------------------------------------


def make_scramble(random: bytes) -> bytes:
    """A scramble from 20 random bytes: 7-bit, no NUL, no "$", as MySQL's own (old clients treat it as a C string)."""
    if len(random) != SCRAMBLE_LENGTH:
        raise ValueError(f"expected {SCRAMBLE_LENGTH} random bytes, found {len(random)}")
    return bytes(value & 0x7F if value & 0x7F not in (0, 0x24) else (value & 0x7F) + 1 for value in random)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def native_hash(password: bytes) -> bytes:
    """SHA1(SHA1(password)): what mysql_native_password stores."""
    return hashlib.sha1(hashlib.sha1(password, usedforsecurity=False).digest(), usedforsecurity=False).digest()


def native_response(password: bytes, scramble: bytes) -> bytes:
    """What a client answers to `scramble`; empty for an empty password."""
    if not password:
        return b""
    first = hashlib.sha1(password, usedforsecurity=False).digest()
    return _xor(first, hashlib.sha1(scramble + native_hash(password), usedforsecurity=False).digest())


def check_native(stored: bytes, scramble: bytes, response: bytes) -> bool:
    """Whether `response` proves the password whose `native_hash` is `stored`."""
    if len(response) != hashlib.sha1(usedforsecurity=False).digest_size:
        return False
    mask = hashlib.sha1(scramble + stored, usedforsecurity=False).digest()
    return hmac.compare_digest(hashlib.sha1(_xor(response, mask), usedforsecurity=False).digest(), stored)


def sha2_digest(password: bytes) -> bytes:
    """SHA256(SHA256(password)): what caching_sha2_password keeps in memory for fast authentication."""
    return hashlib.sha256(hashlib.sha256(password).digest()).digest()


def sha2_response(password: bytes, scramble: bytes) -> bytes:
    """What a client answers to `scramble`; empty for an empty password."""
    if not password:
        return b""
    return _xor(hashlib.sha256(password).digest(), hashlib.sha256(sha2_digest(password) + scramble).digest())


def check_sha2(stored: bytes, scramble: bytes, response: bytes) -> bool:
    """Whether `response` proves the password whose `sha2_digest` is `stored`."""
    if len(response) != hashlib.sha256().digest_size:
        return False
    first = _xor(response, hashlib.sha256(stored + scramble).digest())
    return hmac.compare_digest(hashlib.sha256(first).digest(), stored)


_CRYPT_ALPHABET: Final = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CRYPT_ORDER: Final = (
    (0, 10, 20), (21, 1, 11), (12, 22, 2), (3, 13, 23), (24, 4, 14),
    (15, 25, 5), (6, 16, 26), (27, 7, 17), (18, 28, 8), (9, 19, 29),
)  # fmt: skip


def sha256_crypt(password: bytes, salt: bytes, rounds: int) -> bytes:
    """The 43 characters of SHA-256 crypt (U. Drepper, "Unix crypt using SHA-256 and SHA-512"), with a salt of any
    length.

    MySQL uses it with a salt of 20 bytes where crypt(3) would cut it at 16, hence this implementation.
    """
    length = len(password)
    alternate = hashlib.sha256(password + salt + password).digest()
    digest = hashlib.sha256(password + salt + (alternate * (length // 32 + 1))[:length])
    bits = length
    while bits:
        digest.update(alternate if bits & 1 else password)
        bits >>= 1
    state = digest.digest()
    password_sequence = (hashlib.sha256(password * length).digest() * (length // 32 + 1))[:length]
    salt_digest = hashlib.sha256(salt * (16 + state[0])).digest()
    salt_sequence = (salt_digest * (len(salt) // 32 + 1))[: len(salt)]
    for number in range(rounds):
        odd = number & 1
        parts = [password_sequence if odd else state]
        if number % 3:
            parts.append(salt_sequence)
        if number % 7:
            parts.append(password_sequence)
        parts.append(state if odd else password_sequence)
        state = hashlib.sha256(b"".join(parts)).digest()
    out = bytearray()
    for high, middle, low in _CRYPT_ORDER:
        _crypt_characters(out, state[high] << 16 | state[middle] << 8 | state[low], 4)
    _crypt_characters(out, state[31] << 8 | state[30], 3)
    return bytes(out)


def _crypt_characters(out: bytearray, value: int, count: int) -> None:
    for _ in range(count):
        out.append(_CRYPT_ALPHABET[value & 0x3F])
        value >>= 6


@dataclass(frozen=True, slots=True)
class Sha2Stored:
    """caching_sha2_password's stored hash: "$A$", rounds/1000 as 3 hex digits, "$", 20 bytes of salt, 43 characters."""

    rounds: int
    salt: bytes
    hash: bytes

    @classmethod
    def parse(cls, text: bytes) -> Sha2Stored:
        """Read the stored form. Raises ValueError (which does not repeat the text)."""
        if len(text) != 7 + 20 + 43 or not text.startswith(b"$A$") or text[6:7] != b"$":
            raise ValueError("expected $A$, three hexadecimal digits, $, 20 bytes of salt and 43 characters")
        rounds = int(text[3:6], 16) * 1000
        if not 5000 <= rounds <= 4095000:
            raise ValueError(f"expected at least 5000 rounds, found {rounds}")
        return cls(rounds, text[7:27], text[27:])

    def matches(self, password: bytes) -> bool:
        """Whether `password` is the one. Takes milliseconds, on purpose."""
        return hmac.compare_digest(sha256_crypt(password, self.salt, self.rounds), self.hash)


# -- the conversation --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Account:
    """A user that may log in, and what proves it. Which hashes are present follows from how the password was given.

    plugins: those allowed, the preferred one first. native: `native_hash`. sha2: `sha2_digest`; where only
    `sha2_stored` is known it is filled by the first full authentication. empty: the password is empty.
    """

    user: str
    plugins: tuple[Plugin, ...]
    native: bytes | None = None
    sha2: bytes | None = None
    sha2_stored: Sha2Stored | None = None
    empty: bool = False


class Outcome(Enum):
    """Where a login stands after a step."""

    CONTINUE = "the client has to answer"
    ACCEPTED = "the client is who it says"
    DENIED = "it is not"
    UNSUPPORTED = "the client cannot speak any plugin that the account allows"


@dataclass(frozen=True, slots=True)
class Step:
    """What to send (payloads, in order), and where the login stands. OK and ERR are not among the payloads."""

    outcome: Outcome
    packets: tuple[bytes, ...] = ()


def auth_switch(plugin: Plugin, scramble: bytes) -> bytes:
    """AuthSwitchRequest: 0xfe, the plugin's name, NUL, the scramble, NUL."""
    return _SWITCH + plugin.encode("ascii") + b"\0" + scramble + b"\0"


def more_data(data: bytes) -> bytes:
    """AuthMoreData: 0x01 and data for the plugin."""
    return _MORE_DATA + data


class Login:
    """One login, step by step: `begin` with the handshake response, then `proceed` with each further packet of the
    client.

    account: None when there is no such user; the packets are the same, the end is not. secure: the connection is
    encrypted. public_key: PEM, for full authentication without TLS. decrypt: RSA-OAEP (SHA-1) decryption with its
    private key; None when the data does not decrypt.

    using_password: the client has sent one, or what proves it.
    """

    def __init__(
        self,
        account: Account | None,
        *,
        scramble: bytes,
        greeting_plugin: Plugin,
        secure: bool,
        public_key: bytes,
        decrypt: Callable[[bytes], bytes | None],
    ) -> None:
        self._account = account
        self._scramble = scramble
        self._greeting_plugin = greeting_plugin
        self._secure = secure
        self._public_key = public_key
        self._decrypt = decrypt
        self._plugin = greeting_plugin
        self._full = False
        self._key_sent = False
        self.using_password = False

    @property
    def doubted(self) -> bool:
        """AuthMoreData 04 tells the client that what it sent proves nothing yet: all that who guesses wants to know."""
        return self._full

    def begin(self, plugin: str | None, data: bytes, *, switch: bool = False) -> Step:
        """The client's first answer. plugin: the one it names, None when it knows none. switch: always ask again
        (COM_CHANGE_USER).
        """
        self.using_password = bool(data.strip(b"\0"))
        allowed = self._account.plugins if self._account is not None else tuple(Plugin)
        if plugin is None:
            # A client from before plugins can only do mysql_native_password.
            if Plugin.NATIVE not in allowed:
                return Step(Outcome.UNSUPPORTED)
            self._plugin = Plugin.NATIVE
            return self._answer(data)
        self._plugin = next((known for known in allowed if known == plugin), allowed[0])
        if switch or plugin != self._plugin or plugin != self._greeting_plugin:
            return Step(Outcome.CONTINUE, (auth_switch(self._plugin, self._scramble),))
        return self._answer(data)

    def proceed(self, data: bytes) -> Step:
        """The client's next packet."""
        if self._full:
            return self._full_answer(data)
        return self._answer(data)

    def _answer(self, data: bytes) -> Step:
        if not data.strip(b"\0"):
            return self._verdict(self._account is not None and self._account.empty)
        self.using_password = True
        account = self._account
        if self._plugin is Plugin.NATIVE:
            stored = account.native if account is not None else None
            return self._verdict(stored is not None and check_native(stored, self._scramble, data))
        if account is not None and account.sha2 is not None and check_sha2(account.sha2, self._scramble, data):
            return Step(Outcome.ACCEPTED, (more_data(bytes((FAST_AUTH_OK,))),))
        self._full = True
        return Step(Outcome.CONTINUE, (more_data(bytes((FULL_AUTH,))),))

    def _full_answer(self, data: bytes) -> Step:
        if self._secure:
            return self._verdict(self._check_password(data))
        if data == REQUEST_PUBLIC_KEY and not self._key_sent:
            self._key_sent = True
            return Step(Outcome.CONTINUE, (more_data(self._public_key),))
        clear = self._decrypt(data)
        if clear is None:
            return Step(Outcome.DENIED)
        repeated = (self._scramble * (len(clear) // SCRAMBLE_LENGTH + 1))[: len(clear)]
        return self._verdict(self._check_password(_xor(clear, repeated)))

    def _check_password(self, data: bytes) -> bool:
        if not data.endswith(b"\0") or len(data) > _MAX_PASSWORD + 1:
            return False
        password = data[:-1]
        account = self._account
        if account is None:
            return False
        if account.sha2_stored is not None:
            if not account.sha2_stored.matches(password):
                return False
            account.sha2 = sha2_digest(password)
            return True
        return account.sha2 is not None and hmac.compare_digest(sha2_digest(password), account.sha2)

    def _verdict(self, proven: bool) -> Step:
        return Step(Outcome.ACCEPTED if proven else Outcome.DENIED)
