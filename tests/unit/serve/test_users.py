"""The users file: what it may say, how mistakes are told, and that changes are followed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from kingbus_node.serve import users as module
from kingbus_node.serve.privileges import ALL, Privilege
from kingbus_node.serve.users import User, Users, UsersError, load_users
from kingbus_node.wire.auth import Plugin, native_hash, sha2_digest

STORED = (
    "0x244124303041247E44552A72612515321C73795F4E19645E330118454D616153426E7949312E3533674E41335854583430644A7236587648"
    "696E6169446C554A43595A75552F"
)
NATIVE = "*" + native_hash(b"replpw").hex().upper()


def load(folder: Path, text: str) -> dict[str, User]:
    path = folder / "users.yaml"
    path.write_text(text)
    return load_users(path)[0]


def test_a_password_may_prove_itself_by_both_plugins(tmp_path: Path) -> None:
    account = load(tmp_path, "- {user: repl, password: replpw}")["repl"]
    assert account.plugins == (Plugin.CACHING_SHA2, Plugin.NATIVE)
    assert (account.native, account.sha2) == (native_hash(b"replpw"), sha2_digest(b"replpw"))
    assert "replpw" not in repr(account)


def test_plugins_may_be_limited_and_ordered(tmp_path: Path) -> None:
    text = "- {user: a, password: x, plugins: [mysql_native_password, caching_sha2_password]}\n"
    text += "- {user: b, password: x, plugins: [caching_sha2_password]}"
    accounts = load(tmp_path, text)
    assert accounts["a"].plugins == (Plugin.NATIVE, Plugin.CACHING_SHA2)
    assert accounts["b"].plugins == (Plugin.CACHING_SHA2,)


def test_a_password_file_is_relative_and_its_line_end_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"replpw\r\n")
    account = load(tmp_path, "- {user: repl, password_file: pw}")["repl"]
    assert account.sha2 == sha2_digest(b"replpw")


def test_stored_hashes_are_for_their_own_plugin(tmp_path: Path) -> None:
    accounts = load(tmp_path, f"- {{user: n, auth_string: '{NATIVE}'}}\n- {{user: s, auth_string: '{STORED}'}}")
    assert accounts["n"].plugins == (Plugin.NATIVE,)
    assert accounts["n"].native == native_hash(b"replpw")
    assert accounts["s"].plugins == (Plugin.CACHING_SHA2,)
    stored = accounts["s"].sha2_stored
    assert stored is not None
    assert stored.matches(b"replpw")


def test_an_empty_password_is_one(tmp_path: Path) -> None:
    assert load(tmp_path, "- {user: open, password: ''}")["open"].empty


def test_an_empty_file_means_that_nobody_may_log_in(tmp_path: Path) -> None:
    assert load(tmp_path, "") == {}


def test_a_user_may_do_everything_unless_it_is_limited(tmp_path: Path) -> None:
    """As it was before there were limits: an old file means what it meant."""
    user = load(tmp_path, "- {user: repl, password: replpw}")["repl"]
    assert user.privileges == ALL
    assert not user.require_tls


@pytest.mark.parametrize(
    ("names", "privileges"),
    [
        ("[REPLICATION SLAVE]", {Privilege.REPLICATION_SLAVE}),
        ("[replication  slave, Replication_Client]", {Privilege.REPLICATION_SLAVE, Privilege.REPLICATION_CLIENT}),
        ("[BINLOG MONITOR, REPLICA MONITOR]", {Privilege.REPLICATION_CLIENT, Privilege.SLAVE_MONITOR}),
        ("[BINLOG_ADMIN, CONNECTION ADMIN, PROCESS]",
         {Privilege.BINLOG_ADMIN, Privilege.CONNECTION_ADMIN, Privilege.PROCESS}),
        ("[ALL]", ALL),
        ("[SUPER]", ALL),
        ("[]", set()),
    ],
)  # fmt: skip
def test_privileges_have_the_names_that_grant_has(tmp_path: Path, names: str, privileges: set[Privilege]) -> None:
    user = load(tmp_path, f"- {{user: a, password: x, privileges: {names}, require_tls: true}}")["a"]
    assert user.privileges == privileges
    assert user.require_tls


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("repl: s3cret", "expected a list of users, found a mapping"),
        ("- s3cret", r"\[0\]: expected a mapping with user and password, found a text"),
        ("- {password: s3cret}", r"\[0\].user: expected a name of 1 to 80 characters, found nothing"),
        ("- {user: a}", r"expected one of password, password_file, auth_string, found none"),
        ("- {user: a, password: s3cret, auth_string: s3cret}", "found password and auth_string"),
        ("- {user: a, password: 12345}", "expected a text .put it in quotes., found a number"),
        ("- {user: a, pasword: s3cret}", r"unknown key 'pasword': expected auth_string, password"),
        ("- {user: a, password: s3cret, plugins: [sha256_password]}", "expected a list of caching_sha2_password and"),
        ("- {user: a, password: s3cret, plugins: []}", "expected a list"),
        ("- {user: a, password: x}\n- {user: a, password: s3cret}", r"\[1\].user: 'a' is there twice"),
        ("- {user: a, auth_string: s3cret}", r"expected \* and 40 hexadecimal digits"),
        ("- {user: a, auth_string: '*s3cret'}", r"expected \* and 40 hexadecimal digits"),
        (f"- {{user: a, auth_string: '{NATIVE}', plugins: [caching_sha2_password]}}", "mysql_native_password only"),
        ("- {user: a, password_file: s3cret}", "cannot be read: No such file"),
        ("- {user: a, password: s3cret, privileges: ALL}", r"privileges \(a\): expected a list of .*, found a text"),
        ("- {user: a, password: s3cret, privileges: [FILE]}", r"unknown privilege 'FILE': expected REPLICATION SLAVE"),
        ("- {user: a, password: s3cret, privileges: [1]}", "expected a list of REPLICATION SLAVE"),
        ("- {user: a, password: s3cret, require_tls: 'no'}", r"require_tls \(a\): expected true or false, found a"),
        ("- {user: a, password: s3cret, require_tls: 1}", "expected true or false, found a number"),
        ("- {user: a, password:s3cret}", r"\[0\]: a key without a value: expected auth_string, password"),
        ("- {user: a, password: so, s3cret}", r"\[0\]: a key without a value: expected auth_string, password"),
        ("- {user: a, password: 's3cret", r"expected YAML in UTF-8 \(line"),
        ("- {user: s3cret, password: 2024-02-31}", "expected YAML in UTF-8"),
        ("- {user: s3cret, password: 0x_}", "expected YAML in UTF-8"),
        ("[s3cret, " * 5000, "expected YAML in UTF-8"),
        (r'- {user: a, password: "s3cret\ud800"}', "users.yaml: a text in it has a character that is none"),
        (r'- {user: a, password_file: "s3cret\0"}', "users.yaml: a text in it has a character that is none"),
    ],
)
def test_a_mistake_is_told_by_its_place_without_the_secret(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UsersError, match=problem) as caught:
        load(tmp_path, text)
    assert "password_file: s3cret" in text or "s3cret" not in str(caught.value)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(UsersError, match=r"/nowhere/users\.yaml: cannot be read"):
        load_users(Path("/nowhere/users.yaml"))


class Watched:
    """A users file that is looked at again every time."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
        self.path = folder / "users.yaml"
        (folder / "pw").write_text("one")
        self.write("- {user: repl, password_file: pw}")
        self.users = Users(self.path)

    def write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")  # replaced as a whole, as Kubernetes does with mounted Secrets
        fresh.write_text(text)
        fresh.replace(self.path)

    def digest(self, user: str = "repl") -> bytes | None:
        account = self.users.find(user)
        return account.sha2 if account else None


def test_a_rotated_password_is_in_force_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, monkeypatch)
    assert watched.digest() == sha2_digest(b"one")
    (tmp_path / "pw").write_text("another")
    assert watched.digest() == sha2_digest(b"another")
    watched.write("- {user: other, password: three}")
    assert watched.digest() is None
    assert watched.digest("other") == sha2_digest(b"three")


@pytest.mark.parametrize("mistake", ["- {user: repl}", "- {user: repl, password: 2024-02-31}"])
def test_a_mistake_leaves_the_old_users_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mistake: str
) -> None:
    watched = Watched(tmp_path, monkeypatch)
    watched.write(mistake)
    with caplog.at_level(logging.ERROR):
        assert watched.digest() == sha2_digest(b"one")
        assert watched.digest() == sha2_digest(b"one")
    assert len(caplog.records) == 1
    watched.write("- {user: repl, password: new}")
    assert watched.digest() == sha2_digest(b"new")


def test_a_file_that_is_named_before_it_is_there_counts_once_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(tmp_path, monkeypatch)
    watched.write("- {user: repl, password_file: later}")
    assert watched.digest() == watched.digest() == sha2_digest(b"one")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    (tmp_path / "later").write_text("two")
    assert watched.digest() == sha2_digest(b"two")


@pytest.mark.parametrize("file", ["users.yaml", "pw"])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    watched = Watched(tmp_path, monkeypatch)

    def load_late(path: Path) -> tuple[dict[str, User], tuple[Path, ...]]:
        """Something happens before what was read is put to use."""
        loaded = load_users(path)
        if file == "pw":
            (tmp_path / "pw").write_text("third")
        else:
            watched.write("- {user: repl, password: third, require_tls: true}")
        return loaded

    monkeypatch.setattr(module, "load_users", load_late)
    watched.write("- {user: repl, password_file: pw, privileges: [PROCESS]}")
    assert watched.digest() in (sha2_digest(b"one"), sha2_digest(b"third"))
    monkeypatch.setattr(module, "load_users", load_users)
    account = watched.users.find("repl")
    assert account is not None
    assert (account.sha2, account.require_tls) == (sha2_digest(b"third"), file == "users.yaml")
    assert watched.users.find("repl") is account, "it is read once"


def test_what_full_authentication_has_proven_survives_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, monkeypatch)
    watched.write(f"- {{user: s, auth_string: '{STORED}'}}")
    account = watched.users.find("s")
    assert account is not None
    account.sha2 = sha2_digest(b"replpw")
    watched.write(f"- {{user: s, auth_string: '{STORED}'}}\n- {{user: t, password: x}}")
    assert watched.digest("s") == sha2_digest(b"replpw")
    watched.write("- {user: s, password: changed}")
    assert watched.digest("s") == sha2_digest(b"changed")


def _mounted(folder: Path, version: str, users: dict[str, str]) -> None:
    """A Secret as a kubelet mounts it: files are links into a folder that is exchanged as a whole."""
    data = folder / f"..{version}"
    data.mkdir()
    for user, password in users.items():
        (data / user).write_text(password)
        if not (folder / user).is_symlink():
            (folder / user).symlink_to(f"..data/{user}")
    link = folder / "..new"
    link.symlink_to(data.name)
    link.replace(folder / "..data")
    for file in folder.iterdir():
        if not file.name.startswith(".") and file.name not in users:
            file.unlink()


def test_a_folder_holds_a_user_in_each_file(tmp_path: Path) -> None:
    _mounted(tmp_path, "1", {"repl": "replpw\n", "cdc": "other"})
    accounts, _ = load_users(tmp_path)
    assert set(accounts) == {"repl", "cdc"}
    assert accounts["repl"].sha2 == sha2_digest(b"replpw")


def test_a_changed_secret_takes_effect_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
    _mounted(tmp_path, "1", {"repl": "old", "gone": "x"})
    users = Users(tmp_path)
    _mounted(tmp_path, "2", {"repl": "new", "added": "y"})
    account = users.find("repl")
    assert account is not None
    assert account.sha2 == sha2_digest(b"new")
    assert users.find("gone") is None
    assert users.find("added") is not None


def test_a_list_in_a_folder_says_more_about_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret with a key for each user, and one that limits some of them."""
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
    limited = "- {user: cdc, password_file: cdc, privileges: [REPLICATION SLAVE], require_tls: true}\n"
    secret = {"repl": "replpw", "cdc": "other", "users.yaml": limited}
    _mounted(tmp_path, "1", secret)
    users = Users(tmp_path)
    assert set(load_users(tmp_path)[0]) == {"repl", "cdc"}
    repl, cdc = users.find("repl"), users.find("cdc")
    assert repl is not None
    assert cdc is not None
    assert (repl.privileges, repl.require_tls) == (ALL, False)
    assert (cdc.privileges, cdc.require_tls) == (frozenset((Privilege.REPLICATION_SLAVE,)), True)
    assert cdc.sha2 == sha2_digest(b"other")
    _mounted(tmp_path, "2", secret | {"cdc": "rotated", "users.yaml": limited + "- {user: new, password: x}"})
    cdc = users.find("cdc")
    assert cdc is not None
    assert (cdc.sha2, cdc.require_tls) == (sha2_digest(b"rotated"), True)
    assert users.find("new") is not None


def test_an_alias_in_the_list_is_not_a_user_besides(tmp_path: Path) -> None:
    """The name of the file is not the user's: it holds a password only."""
    _mounted(tmp_path, "1", {"cdc.password": "x", "users.yaml": "- {user: cdc, password_file: cdc.password}"})
    assert set(load_users(tmp_path)[0]) == {"cdc"}


def test_a_mistake_in_the_list_of_a_folder_lets_nobody_in_unlimited(tmp_path: Path) -> None:
    _mounted(tmp_path, "1", {"cdc": "x", "users.yaml": "- {user: cdc, password_file: cdc, privilege: []}"})
    with pytest.raises(UsersError, match=r"users\.yaml: \[0\]: unknown key 'privilege'"):
        load_users(tmp_path)
