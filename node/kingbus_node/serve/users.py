"""Who may log in, and what for: the users file, or a folder.

A folder, such as a mounted Secret, holds a file for each user: the file's name is the user's, its content the password.
Names that begin with a dot are not looked at (Kubernetes keeps the versions of a Secret in such folders).

A YAML list. Each item names a `user` and one of

- `password`: in the file itself,
- `password_file`: the name of a file that holds only the password (relative to the users file; a line end at its end
  is not part of it), as a mounted Secret does,
- `auth_string`: what the server stored: ``*`` and 40 hexadecimal digits for mysql_native_password, ``$A$005$...`` for
  caching_sha2_password, as SELECT authentication_string FROM mysql.user prints it; or, because that salt holds
  unprintable bytes, ``0x`` and hexadecimal digits as SHOW CREATE USER prints it with print_identified_with_as_hex,

and optionally

- `plugins`, the preferred one first; without it a password may prove itself by caching_sha2_password or
  mysql_native_password, an auth_string by its own plugin,
- `privileges`, by the names that GRANT has for them (see `privileges`); without it the user has all,
- `require_tls`, true for a user that may not come without TLS.

In a folder, a file of the name users.yaml is such a list as well: it says more about the users that are files beside it
(`password_file`), or adds some. Passwords are only kept as the hashes that logins are checked
against. The files are read again when one of them changes; a mistake then leaves the old users in force, and is logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from kingbus_node.serve.privileges import ALL, Privilege, Privileges, privileges_of
from kingbus_node.util.files import Stamp, stamp
from kingbus_node.wire.auth import Account, Plugin, Sha2Stored, native_hash, sha2_digest

_log = logging.getLogger(__name__)

_CHECK_SECONDS: Final = 1.0
_MAX_FILE: Final = 1 << 20
_MAX_USER_CHARACTERS: Final = 80  # MariaDB's limit; MySQL's is 32
_MAX_PASSWORD_BYTES: Final = 255
_KEYS: Final = frozenset(("user", "password", "password_file", "auth_string", "plugins", "privileges", "require_tls"))
_LIST: Final = "users.yaml"
"""The file in a folder that is no user but a list."""
_PROOFS: Final = ("password", "password_file", "auth_string")
_BOTH: Final = (Plugin.CACHING_SHA2, Plugin.NATIVE)


@dataclass(slots=True)
class User(Account):
    """An account, and what it may do. require_tls: only over TLS."""

    privileges: Privileges = ALL
    require_tls: bool = False


class UsersError(Exception):
    """The users file cannot be used. The text is for people, and holds no secret."""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as problem:
        raise UsersError(f"{path}: cannot be read: {problem.strerror}") from problem
    if len(data) > _MAX_FILE:
        raise UsersError(f"{path}: expected at most {_MAX_FILE} bytes")
    return data


def load_users(path: Path) -> tuple[dict[str, User], tuple[Path, ...]]:
    """Read the users file, or folder. Returns the accounts by user name, and what to watch. Raises `UsersError`."""
    try:
        if path.is_dir():
            return _load_folder(path)
        accounts, extra = _load_list(path)
    except OSError as problem:
        raise UsersError(f"{path}: cannot be read: {problem.strerror}") from problem
    except ValueError:  # NUL in the name of a file, half a character in a password
        raise UsersError(f"{path}: a text in it has a character that is none") from None
    return accounts, (path, *extra)


def _load_list(path: Path) -> tuple[dict[str, User], list[Path]]:
    try:
        document = yaml.safe_load(_read(path).decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as problem:  # ValueError: no UTF-8, or a date of 31 February
        mark = getattr(problem, "problem_mark", None)  # the text around it may be a password: only say where
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UsersError(f"{path}: expected YAML in UTF-8{where}") from None
    if document is None:
        document = []
    if not isinstance(document, list):
        raise UsersError(f"{path}: expected a list of users, found {_kind(document)}")
    accounts: dict[str, User] = {}
    files: list[Path] = []
    for number, item in enumerate(document):
        where = f"{path}: [{number}]"
        account, extra = _account(where, item, path.parent)
        if account.user in accounts:
            raise UsersError(f"{where}.user: {account.user!r} is there twice: expected each user once")
        accounts[account.user] = account
        files += extra
    return accounts, files


def _load_folder(folder: Path) -> tuple[dict[str, User], tuple[Path, ...]]:
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    except OSError as problem:
        raise UsersError(f"{folder}: cannot be read: {problem.strerror}") from problem
    listed: dict[str, User] = {}
    apart: list[Path] = []
    if (folder / _LIST) in files:
        listed, apart = _load_list(folder / _LIST)
        apart.append(folder / _LIST)
    accounts = {
        file.name: _with_password(str(file), file.name, _read(file).rstrip(b"\r\n"), None)
        for file in files
        if file not in apart
    }
    return accounts | listed, (folder, *files, *apart)


def _kind(value: object) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def _account(where: str, item: object, folder: Path) -> tuple[User, list[Path]]:
    if not isinstance(item, Mapping):
        raise UsersError(f"{where}: expected a mapping with user and password, found {_kind(item)}")
    for key in item:
        if key not in _KEYS:
            # Without a value it may be a password, or the rest of one: {password:secret} and {password: with, comma}.
            found = "a key without a value" if item[key] is None else f"unknown key {key!r}"
            raise UsersError(f"{where}: {found}: expected {', '.join(sorted(_KEYS))}")
    user = item.get("user")
    if not isinstance(user, str) or not 1 <= len(user) <= _MAX_USER_CHARACTERS:
        raise UsersError(
            f"{where}.user: expected a name of 1 to {_MAX_USER_CHARACTERS} characters, found {_kind(user)}"
        )
    given = [name for name in _PROOFS if item.get(name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UsersError(f"{where} ({user}): expected one of {', '.join(_PROOFS)}, found {found}")
    proof = item[given[0]]
    if not isinstance(proof, str):
        raise UsersError(f"{where}.{given[0]} ({user}): expected a text (put it in quotes), found {_kind(proof)}")
    plugins = _plugins(where, user, item.get("plugins"))
    account, files = _proven(where, user, given[0], proof, plugins, folder)
    account.privileges = _privileges(where, user, item.get("privileges"))
    account.require_tls = _truth(where, user, "require_tls", item.get("require_tls", False))
    return account, files


def _proven(
    where: str, user: str, kind: str, proof: str, plugins: tuple[Plugin, ...] | None, folder: Path
) -> tuple[User, list[Path]]:
    if kind == "auth_string":
        return _stored(where, user, proof, plugins), []
    if kind == "password":
        return _with_password(where, user, proof.encode("utf-8"), plugins), []
    file = folder / proof
    return _with_password(where, user, _read(file).rstrip(b"\r\n"), plugins), [file]


def _privileges(where: str, user: str, given: object) -> Privileges:
    if given is None:
        return ALL
    names = ", ".join(Privilege)
    if not isinstance(given, list) or any(not isinstance(name, str) for name in given):
        raise UsersError(f"{where}.privileges ({user}): expected a list of {names} or ALL, found {_kind(given)}")
    try:
        return privileges_of(given)
    except ValueError as unknown:
        raise UsersError(
            f"{where}.privileges ({user}): unknown privilege {str(unknown)!r}: expected {names} or ALL"
        ) from None


def _truth(where: str, user: str, key: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise UsersError(f"{where}.{key} ({user}): expected true or false, found {_kind(given)}")
    return given


def _plugins(where: str, user: str, given: object) -> tuple[Plugin, ...] | None:
    if given is None:
        return None
    names = [str(plugin) for plugin in Plugin]
    if not isinstance(given, list) or not given or any(name not in names for name in given):
        raise UsersError(f"{where}.plugins ({user}): expected a list of {' and '.join(names)}")
    return tuple(dict.fromkeys(Plugin(name) for name in given))


def _with_password(where: str, user: str, password: bytes, plugins: tuple[Plugin, ...] | None) -> User:
    if len(password) > _MAX_PASSWORD_BYTES or b"\0" in password:
        raise UsersError(
            f"{where} ({user}): expected a password of at most {_MAX_PASSWORD_BYTES} bytes, none of them NUL"
        )
    return User(
        user,
        plugins or _BOTH,
        native=native_hash(password) if password else None,
        sha2=sha2_digest(password) if password else None,
        empty=not password,
    )


def _stored(where: str, user: str, text: str, plugins: tuple[Plugin, ...] | None) -> User:
    problem = UsersError(
        f"{where}.auth_string ({user}): expected * and 40 hexadecimal digits (mysql_native_password) or $A$005$ and 63 "
        "bytes (caching_sha2_password), as they are or as 0x and hexadecimal digits"
    )
    try:
        raw = bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode("utf-8")
        if raw.startswith(b"*"):
            native = bytes.fromhex(raw[1:].decode("ascii"))
            if len(native) != 20:
                raise problem
            account = User(user, (Plugin.NATIVE,), native=native)
        else:
            account = User(user, (Plugin.CACHING_SHA2,), sha2_stored=Sha2Stored.parse(raw))
    except ValueError:
        raise problem from None
    if plugins is not None and plugins != account.plugins:
        raise UsersError(f"{where}.plugins ({user}): this auth_string is for {account.plugins[0]} only")
    return account


class Users:
    """The accounts, kept up to date with their files. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Reads the file. Raises `UsersError`."""
        self._path = path
        self._lock = threading.Lock()
        self._files: tuple[Path, ...] = (path,)
        self._accounts, self._seen = self._load()
        self._trouble = ""
        self._checked = time.monotonic()

    def find(self, user: str) -> User | None:
        """The account of this name, None when there is none."""
        with self._lock:
            self._refresh()
            return self._accounts.get(user)

    def _refresh(self) -> None:
        """Read the files again if one has changed; at most once a second."""
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        if self._seen == stamp(self._files):
            self._trouble = ""
            return
        try:
            accounts, self._seen = self._load()
        except UsersError as problem:  # tried again next time: what is missing may be a file that is not watched yet
            if str(problem) != self._trouble:
                _log.error("the users stay as they were: %s", problem)
            self._trouble = str(problem)
            return
        self._trouble = ""
        for user, account in accounts.items():
            old = self._accounts.get(user)
            if old is not None and old.sha2_stored == account.sha2_stored and account.sha2 is None:
                account.sha2 = old.sha2  # what full authentication has proven stays proven
        self._accounts = accounts
        _log.info("read %d users from %s", len(accounts), self._path)

    def _load(self) -> tuple[dict[str, User], Stamp]:
        """The accounts, and what their files were like before they were read: a file that changes meanwhile is read
        again. Which files those are is known after a first look. Raises `UsersError`.
        """
        while True:
            seen = stamp(self._files)
            accounts, files = load_users(self._path)
            if files == self._files:
                return accounts, seen
            self._files = files
