"""The source's settings in the log: seeded once, changed by proposals, without secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kingbus_node.config import Address, Config, ConfigError, parse
from kingbus_node.source import settings
from kingbus_node.store.entry import Json


def config(**source: object) -> Config:
    document = {
        "source": {
            "endpoints": ["db1:3306"], "user": "repl", "password_file": "pw",
            "tls": {"mode": "verify-ca", "ca": "ca.pem"}, "retry": {"initial": "1s", "max": "5s"}, **source,
        }
    }  # fmt: skip
    return parse(document, Path("/etc/kingbus"), {})


def facts(value: dict[str, Json]) -> dict[str, Json]:
    return {settings.FACT_SETTINGS: json.loads(json.dumps(value))}


def test_an_empty_log_leaves_the_configuration_as_it_is() -> None:
    ours = config()
    assert settings.effective(ours, {}) == ours.source
    assert not settings.is_seeded({})
    assert not settings.is_stopped({})


def test_the_seed_says_the_same_again_and_holds_no_secret_and_no_file() -> None:
    ours = config()
    seed = settings.seed(ours)
    assert settings.effective(ours, facts(seed)) == ours.source
    assert settings.is_seeded(facts(seed))
    assert "/etc" not in json.dumps(seed)
    assert "pw" not in json.dumps(seed)


def test_the_log_counts_and_files_stay_with_the_node() -> None:
    known = facts(settings.seed(config(endpoints=["db2:3307", "db3:3308"], user="other")))
    found = settings.effective(config(), known)
    assert found.endpoints == (Address("db2", 3307), Address("db3", 3308))
    assert found.user == "other"
    assert found.password_file == Path("/etc/kingbus/pw")
    assert found.tls.ca == Path("/etc/kingbus/ca.pem")


def test_what_the_file_says_and_the_log_does_not_is_named() -> None:
    known = facts(settings.seed(config()))
    assert settings.ignored(config(), known) == []
    assert settings.ignored(config(), {}) == []
    (sentence,) = settings.ignored(config(endpoints=["db9:3306"]), known)
    assert sentence.startswith("source.endpoints is db9:3306 in the configuration, but the cluster's log says db1:3306")


def test_a_change_keeps_the_rest() -> None:
    known = facts(settings.seed(config()))
    after = settings.changed(config(), known, {"semi_sync": False, "retry": {"max": "20s"}})
    found = settings.effective(config(), facts(after))
    assert (found.semi_sync, found.retry.initial, found.retry.max) == (False, 1.0, 20.0)
    assert found.endpoints == (Address("db1", 3306),)
    again = settings.changed(config(), facts(after), {"tls": {"mode": "required"}})
    assert settings.effective(config(), facts(again)).tls.mode == "required"
    assert settings.effective(config(), facts(again)).retry.max == 20.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"endpoints": []}, "source.endpoints"),
        ({"endpoints": ["nowhere"]}, "source.endpoints.0: 'nowhere': expected an address"),
        ({"server_id": 0}, "source.server_id: 0: expected"),
        ({"server_id": 101}, "source.server_id and serve.server_id are both 101"),
        ({"password_file": "/x"}, "password_file: expected one of endpoints"),
        ({"password": "hunter2"}, "password: expected one of endpoints"),
        ({"tls": {"ca": "/x"}}, "tls: expected only mode"),
        ({"retry": {"initial": "1m"}}, "is longer than source.retry.max"),
    ],
)
def test_what_can_not_be_used_is_refused_with_its_key(change: dict[str, Json], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings.changed(config(), facts(settings.seed(config())), change)
    assert told in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_stopped_lasts_until_it_is_started_or_switched() -> None:
    ours = config()
    known = facts(settings.stopped(ours, {}, value=True))
    assert settings.is_stopped(known)
    assert settings.is_stopped(facts(settings.changed(ours, known, {"user": "other"})))
    assert not settings.is_stopped(facts(settings.stopped(ours, known, value=False)))
    assert not settings.is_stopped(facts(settings.switched(ours, known, {"endpoints": ["db2:3306"]})))


def test_what_a_forced_switch_allowed_is_for_its_endpoints_only() -> None:
    ours = config()
    known = facts(settings.switched(ours, {}, {"endpoints": ["db2:3306"]}, accept_missing="0-1-7"))
    assert settings.accepted_missing(known) == "0-1-7"
    assert settings.accepted_missing(facts(settings.changed(ours, known, {"user": "other"}))) == "0-1-7"
    assert settings.accepted_missing(facts(settings.changed(ours, known, {"endpoints": ["db3:3306"]}))) == ""
    assert settings.shown(ours, known)["accept_missing"] == "0-1-7"
