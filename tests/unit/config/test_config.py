"""The node's configuration: what is accepted, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kingbus_node.config import Address, Config, ConfigError, load, parse, parse_duration, parse_size

BASE = Path("/etc/kingbus")
SMALLEST: dict[str, object] = {"source": {"endpoints": ["db:3306"], "user": "repl"}}

DOCUMENTED = """
node:    {name: node-1, data_dir: /var/lib/kingbus}
raft:    {listen: 127.0.0.1:7401, advertise: 127.0.0.1:7401,
          peers: [127.0.0.1:7401, 127.0.0.1:7402, 127.0.0.1:7403],
          election_timeout: 1s, priority: 0, tls: {ca: , cert: , key: }}
serve:   {listen: 0.0.0.0:3306, workers: auto, server_id: 101, advertised_version: auto,
          tls: {cert: , key: , ca: , require: false}, users_file: users.yaml}
source:  {endpoints: [127.0.0.1:3306], flavor: auto, user: repl, password_file: pw, server_id: 100, semi_sync: true,
          tls: {mode: preferred, ca: , cert: , key: }, start: earliest,
          retry: {initial: 100ms, max: 10s}}
storage: {segment_bytes: 128MiB, retention: {max_age: 7d, max_bytes: 50GiB, keep_for_replicas: true},
          min_free_bytes: 1GiB}
admin:   {listen: 127.0.0.1:8080, token_file: , tls: {cert: , key: }}
log:     {level: info, format: text}
"""


def document(**sections: dict[str, object]) -> dict[str, object]:
    """The smallest document with ``sections`` laid over it, key by key."""
    result: dict[str, object] = {}
    for name in {*SMALLEST, *sections}:
        given = SMALLEST.get(name, {})
        assert isinstance(given, dict)
        result[name] = given | sections.get(name, {})
    return result


def problems(environment: dict[str, str] | None = None, **sections: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(document(**sections), BASE, environment or {})
    return caught.value.problems


def test_the_documented_file_is_accepted_and_holds_bytes_and_seconds(tmp_path: Path) -> None:
    path = tmp_path / "kingbus.yaml"
    path.write_text(DOCUMENTED)
    (tmp_path / "pw").write_text("secret")
    (tmp_path / "users.yaml").write_text("[]")
    config = load(path, {})
    assert config.storage.segment_bytes == 128 * 1024 * 1024
    assert config.storage.retention.max_age == 7 * 24 * 3600.0
    assert config.source.retry.initial == pytest.approx(0.1)
    assert config.raft.election_timeout == 1.0
    assert config.raft.peers[2] == Address("127.0.0.1", 7403)
    assert config.source.password_file == tmp_path / "pw"
    assert config.serve.users_file == tmp_path / "users.yaml"
    assert config.admin.token_file is None
    assert config.serve.tls.cert is None


def test_the_defaults_are_the_documented_values() -> None:
    config = parse(SMALLEST, BASE, {})
    assert (config.node.name, config.node.data_dir) == ("node-1", Path("/var/lib/kingbus"))
    assert (config.serve.listen, config.serve.server_id, config.source.server_id) == (
        Address("0.0.0.0", 3306),
        101,
        100,
    )
    assert config.source.start == "earliest"
    assert config.source.semi_sync is True
    assert config.log.level == "info"


def test_default_file_names_are_relative_to_the_configuration_too() -> None:
    assert parse(SMALLEST, BASE, {}).serve.users_file == BASE / "users.yaml"


def test_an_empty_section_means_its_defaults() -> None:
    config = parse({**SMALLEST, "serve": None, "admin": {"tls": None}}, BASE, {})
    assert config.serve.workers == "auto"
    assert config.admin.tls.cert is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        (7, 7),
        ("128MiB", 2**27),
        ("128Mi", 2**27),
        ("1.5 GiB", 3 * 2**29),
        ("50GB", 50 * 10**9),
        ("512B", 512),
        ("2K", 2000),
        ("1tib", 2**40),
    ],
)
def test_sizes_become_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("1s", 1), ("10m", 600), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600), (2.5, 2.5), ("3", 3)],
)
def test_durations_become_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "MiB", "-1", "1 parsec", "1e9", None, True, [1]])
def test_what_is_no_size_is_refused(value: object) -> None:
    assert problems(storage={"segment_bytes": value})[0].endswith(
        "expected a size such as 128MiB, 50GiB or a number of bytes"
    )


@pytest.mark.parametrize("value", [-1001, 1001, 2**31])
def test_a_priority_that_members_cannot_be_told_is_refused(value: int) -> None:
    assert "raft.priority" in problems(raft={"priority": value})[0]


@pytest.mark.parametrize("value", ["", "s", "-1s", "1 fortnight", True, -5, "1s2"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    assert "expected a duration such as" in problems(source={"retry": {"max": value}})[0]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3306", Address("127.0.0.1", 3306)),
        ("mysql-0.mysql:3306", Address("mysql-0.mysql", 3306)),
        ("[::1]:3306", Address("::1", 3306)),
    ],
)
def test_an_address_is_read_and_printed_alike(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:", ":1", "host:65536", "::1:3306", "user@host:1", "a b:1", "host:x"),
        *("mysql-0..mysql:1", ".mysql:1", f"{'m' * 64}.mysql:1"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert problems(source={"endpoints": [text]}) == [
        f"source.endpoints.0: {text!r}: expected an address as host:port or [ipv6]:port"
    ]


def test_a_listener_may_take_any_free_port_but_an_endpoint_needs_one() -> None:
    assert parse(document(serve={"listen": "127.0.0.1:0"}), BASE, {}).serve.listen.port == 0
    assert "source.endpoints.0" in problems(source={"endpoints": ["db:0"]})[0]


def test_loopback_is_this_machine_only() -> None:
    assert [Address.parse(text).is_loopback for text in ("127.0.0.9:1", "[::1]:1", "localhost:1")] == [True] * 3
    assert [Address.parse(text).is_loopback for text in ("0.0.0.0:1", "[::]:1", "node-1:1")] == [False] * 3


@pytest.mark.parametrize(
    "start",
    [
        "earliest",
        "CURRENT",
        "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5:7",
        "0-1-5,1-2-7",
        "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5:tag:1-3, 3E11FA47-71CA-11E1-9E33-C80AA9429563:1",
    ],
)
def test_the_start_is_a_word_or_a_gtid_set(start: str) -> None:
    assert parse(document(source={"start": start}), BASE, {}).source.start in (start.lower(), start.replace(" ", ""))


@pytest.mark.parametrize("start", ["latest", "", "3E11FA47:1-5", 5, "0-1", "3E11FA47-71CA-11E1-9E33-C80AA9429562"])
def test_any_other_start_is_refused(start: object) -> None:
    assert "source.start: " in problems(source={"start": start})[0]


def test_environment_overrides_the_file_at_any_depth() -> None:
    config = parse(
        document(serve={"server_id": 7}),
        BASE,
        {
            "KINGBUS_SERVE__SERVER_ID": "8",
            "KINGBUS_STORAGE__RETENTION__MAX_AGE": "3d",
            "KINGBUS_STORAGE__RETENTION__KEEP_FOR_REPLICAS": "false",
            "KINGBUS_RAFT__PEERS": "127.0.0.1:7401, n2:7401",
            "KINGBUS_SOURCE__ENDPOINTS": "[a:1, b:2]",
            "KINGBUS_SOURCE__USER": "12345",
            "KINGBUS_NODE__NAME": "kb-0",
            "KINGBUS_ADMIN": "http://127.0.0.1:1",  # the command line's, not a key
            "KINGBUS_ADMIN_TOKEN": "t",
            "OTHER__KEY": "x",
        },
    )
    assert config.serve.server_id == 8
    assert config.storage.retention.max_age == 3 * 86400.0
    assert config.storage.retention.keep_for_replicas is False
    assert [str(peer) for peer in config.raft.peers] == ["127.0.0.1:7401", "n2:7401"]
    assert [str(endpoint) for endpoint in config.source.endpoints] == ["a:1", "b:2"]
    assert config.source.user == "12345"
    assert config.node.name == "kb-0"


def test_an_empty_variable_means_not_set() -> None:
    config = parse(document(admin={"token_file": "token"}), BASE, {"KINGBUS_ADMIN__TOKEN_FILE": ""})
    assert config.admin.token_file is None


def test_the_environment_does_not_change_the_document_it_overrides() -> None:
    given = document(storage={"retention": {"max_age": "1d"}})
    parse(given, BASE, {"KINGBUS_STORAGE__RETENTION__MAX_AGE": "3d"})
    assert given["storage"] == {"retention": {"max_age": "1d"}}


def test_a_problem_names_the_variable_it_came_from() -> None:
    assert problems({"KINGBUS_SERVE__SERVER_ID": "zero"}) == [
        "serve.server_id (from KINGBUS_SERVE__SERVER_ID): 'zero': expected a whole number"
    ]


def test_a_variable_of_an_unknown_section_or_key_is_refused() -> None:
    assert "serv (from" not in problems({"KINGBUS_SERV__LISTEN": "a:1"})[0]
    assert problems({"KINGBUS_SERV__LISTEN": "a:1"}) == ["serv: unknown key; did you mean serve?"]
    assert "did you mean listen?" in problems({"KINGBUS_SERVE__LISTEM": "a:1"})[0]
    assert problems({"KINGBUS_SOURCE__USER__NAME": "x"}) == ["KINGBUS_SOURCE__USER__NAME: user is not a section"]


def test_unknown_keys_name_what_is_known() -> None:
    assert problems(source={"flavour": "mysql"}) == ["source.flavour: unknown key; did you mean flavor?"]
    assert problems(log={"zzz": 1}) == ["log.zzz: unknown key; expected one of level, format"]


def test_all_problems_are_told_at_once() -> None:
    found = problems(serve={"server_id": 0, "workers": "many"}, log={"level": "loud"})
    assert {problem.split(":")[0] for problem in found} == {"serve.workers", "serve.server_id", "log.level"}


def test_wrong_types_are_refused_although_python_would_take_them() -> None:
    assert problems(source={"server_id": True}) == ["source.server_id: True: expected a whole number"]
    assert problems(source={"server_id": 1.0}) == ["source.server_id: 1.0: expected a whole number"]
    assert problems(source={"user": 1}) == ["source.user: 1: expected text"]
    assert problems(log={"level": ["info"]}) == ["log.level: expected 'debug', 'info', 'warning' or 'error'"]
    with pytest.raises(ConfigError, match="log: expected a section with keys"):
        parse({**SMALLEST, "log": 3}, BASE, {})
    with pytest.raises(ConfigError, match="expected a mapping of sections"):
        parse([], BASE, {})


def test_what_must_be_given_is_named() -> None:
    with pytest.raises(ConfigError, match="source: missing"):
        parse({}, BASE, {})
    with pytest.raises(ConfigError, match=r"source\.user: missing"):
        parse({"source": {"endpoints": ["a:1"]}}, BASE, {})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"source": {"server_id": 5}, "serve": {"server_id": 5}}, "source.server_id and serve.server_id are both 5"),
        ({"source": {"retry": {"initial": "11s"}}}, "source.retry.initial (11s) is longer than source.retry.max (10s)"),
        ({"source": {"tls": {"mode": "VERIFY_CA"}}}, "source.tls.mode is verify-ca: expected source.tls.ca"),
        ({"source": {"tls": {"cert": "c"}}}, "source.tls.cert is set but source.tls.key is not"),
        ({"serve": {"tls": {"key": "k"}}}, "serve.tls.key is set but serve.tls.cert is not"),
        ({"raft": {"tls": {"ca": "c"}}}, "raft.tls: expected ca, cert and key together"),
        ({"source": {"flavor": "mysql", "start": "0-1-5"}}, "source.start is a MariaDB GTID position"),
        ({"storage": {"retention": {"max_bytes": "1MiB"}}}, "storage.retention.max_bytes (1048576) is smaller"),
        ({"admin": {"listen": "0.0.0.0:3306"}, "serve": {"listen": "0.0.0.0:3306"}}, "are both 0.0.0.0:3306"),
        ({"raft": {"peers": ["n2:1", "n3:1"]}}, "raft.peers does not hold this node's own address 127.0.0.1:7401"),
        ({"raft": {"peers": ["127.0.0.1:7401", "127.0.0.1:7401"]}}, "names the same address twice"),
        ({"admin": {"listen": "0.0.0.0:8080"}}, "admin.listen is 0.0.0.0:8080, which others can reach"),
    ],
)
def test_contradictions_are_refused(sections: dict[str, dict[str, object]], words: str) -> None:
    assert any(words in problem for problem in problems({}, **sections))


def test_no_value_that_may_be_a_secret_is_shown() -> None:
    told = "\n".join(
        problems(
            {"KINGBUS_SOURCE__PASSWORD": "hunter2"},
            source={"password_file": ["hunter2"], "tls": "hunter2"},
            admin={"token_file": 12345678, "token": "hunter2"},
            serve={"users_file": {"password": "hunter2"}},
        )
    )
    assert "hunter2" not in told
    assert "12345678" not in told
    assert "source.password (from KINGBUS_SOURCE__PASSWORD): unknown key; did you mean password_file?" in told


@pytest.mark.parametrize("endpoint", ["repl:hunter2@db:3306", "mysql://repl:hunter2@db:3306/"])
def test_a_password_in_an_address_is_not_shown(endpoint: str) -> None:
    """As other programs take it; here it is refused, and told in logs."""
    told = problems(source={"endpoints": [endpoint]}, admin={"advertise": "http://admin:hunter2@node-1:8080"})
    assert "hunter2" not in "\n".join(told)
    assert "source.endpoints.0: expected an address as host:port or [ipv6]:port" in told


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kingbus.yaml"
    with pytest.raises(ConfigError, match="cannot read the configuration: No such file"):
        load(path, {})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected a text file in UTF-8"):
        load(path, {})
    path.write_text("source: {endpoints: ['a:1'], user: repl, password_file: gone}\nserve: {users_file: gone}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["serve.users_file", "source.password_file"]


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "source: {user: a, user: hunter2}", "a: !!python/object:x {}"])
def test_broken_yaml_is_told_by_line_and_never_by_its_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "kingbus.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"line \d+, column \d+: not valid YAML") as caught:
        load(path, {})
    assert "hunter2" not in str(caught.value)


def test_workers_follow_the_processors_unless_given() -> None:
    serve = parse(SMALLEST, BASE, {}).serve
    assert [serve.worker_count(cpus) for cpus in (1, 2, 4, 64)] == [1, 1, 3, 4]
    assert parse(document(serve={"workers": "6"}), BASE, {}).serve.worker_count(1) == 6


def keys(value: object, path: str = "") -> set[str]:
    """The paths of all values; an address is one value."""
    if not isinstance(value, dict) or "host" in value:
        return {path}
    return set().union(*(keys(inner, f"{path}.{key}" if path else str(key)) for key, inner in value.items()))


def test_every_key_of_the_promised_file_has_a_field() -> None:
    config: Config = parse(SMALLEST, BASE, {})
    assert keys(yaml.safe_load(DOCUMENTED)) <= keys(config.model_dump(mode="python"))


def test_every_key_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    missing = [key for key in sorted(keys(parse(SMALLEST, BASE, {}).model_dump())) if f"`{key}`" not in text]
    assert missing == []


def test_a_node_that_may_join_need_not_be_among_the_first_members() -> None:
    config = parse(document(raft={"peers": ["n2:1", "n3:1"], "join": True}), BASE, {})
    assert [str(peer) for peer in config.raft.peers] == ["n2:1", "n3:1"]


def test_the_account_at_the_source_is_named_by_a_key_or_by_a_file() -> None:
    config = parse({"source": {"endpoints": ["a:1"], "user_file": "name"}}, BASE, {})
    assert config.source.user_file == BASE / "name"
    with pytest.raises(ConfigError, match=r"source\.user: missing"):
        parse({"source": {"endpoints": ["a:1"]}}, BASE, {})


def test_the_users_may_be_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "kingbus.yaml"
    path.write_text("source: {endpoints: ['a:1'], user: repl}\nserve: {users_file: users}\n")
    (tmp_path / "users").mkdir()
    assert load(path, {}).serve.users_file == tmp_path / "users"
