"""The settings of the source as the cluster holds them: in the log, the same on every node, without secrets.

1. The ``source`` section of the first leader's configuration seeds them, once (`seed`). From then on the log decides,
   and what a node's file says about the same keys is not looked at any more (`ignored` names the differences).
2. They are one fact of the log, ``source_settings``: an object with the keys of `KEYS`, and two that no file has:
   ``stopped`` (somebody has stopped the source; it stays so over restarts and new leaders), and ``accept_missing`` (a
   GTID set that a forced switch has allowed the source to lack).
3. What names files stays with each node: ``user_file``, ``password_file`` and the TLS files. They are followed when
   they change.

Pure: a change is a new value of the fact, to be proposed as a STATE entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kingbus_node.config import Config, ConfigError, SourceSettings, with_source
from kingbus_node.store.entry import Json

FACT_SETTINGS: Final = "source_settings"
"""The key of LogState.facts."""

KEYS: Final[tuple[str, ...]] = (
    "endpoints",
    "flavor",
    "user",
    "server_id",
    "semi_sync",
    "compression",
    "tls",
    "start",
    "retry",
)
"""What of `config.SourceSettings` is kept in the log; of ``tls`` only the mode."""

Facts = Mapping[str, Json]


def seed(config: Config) -> dict[str, Json]:
    """The first value of the fact: what this node's configuration says."""
    return _fact(config.source, stopped=False, accept_missing="")


def is_seeded(facts: Facts) -> bool:
    """Whether the log holds the settings already."""
    return isinstance(facts.get(FACT_SETTINGS), dict)


def effective(config: Config, facts: Facts) -> SourceSettings:
    """The settings to read by: those of the log, with this node's files; this node's own while the log has none.

    ConfigError if they contradict the rest of this node's configuration.
    """
    known = _known(facts)
    return with_source(config, {key: known[key] for key in KEYS if key in known})


def is_stopped(facts: Facts) -> bool:
    """Whether nobody shall read from the source."""
    return _known(facts).get("stopped") is True


def accepted_missing(facts: Facts) -> str:
    """GTIDs that the log holds and the source may lack, as a set in its flavour's text; '' is the rule."""
    value = _known(facts).get("accept_missing")
    return value if isinstance(value, str) else ""


def changed(config: Config, facts: Facts, changes: Mapping[str, Json]) -> dict[str, Json]:
    """The fact with some keys changed. ConfigError, for people, if a key is unknown or a value can't be used.

    New endpoints end what a forced switch had allowed for the old ones.
    """
    unknown = sorted(set(changes) - set(KEYS))
    if unknown:
        raise ConfigError("source settings", [f"{name}: expected one of {', '.join(KEYS)}" for name in unknown])
    tls = changes.get("tls")
    if tls is not None and (not isinstance(tls, dict) or set(tls) - {"mode"}):
        raise ConfigError("source settings", ["tls: expected only mode; its files are in each node's configuration"])
    known = _known(facts)
    base = {key: known[key] for key in KEYS if key in known}
    settings = with_source(config, {**base, **_merged(base, changes)})
    kept = "" if "endpoints" in changes else accepted_missing(facts)
    return _fact(settings, stopped=is_stopped(facts), accept_missing=kept)


def switched(config: Config, facts: Facts, changes: Mapping[str, Json], accept_missing: str = "") -> dict[str, Json]:
    """The fact after a switch to another source, which is read from at once. As `changed`."""
    return {**changed(config, facts, changes), "stopped": False, "accept_missing": accept_missing}


def stopped(config: Config, facts: Facts, value: bool) -> dict[str, Json]:
    """The fact with the source stopped, or started again."""
    return _fact(effective(config, facts), stopped=value, accept_missing=accepted_missing(facts))


def ignored(config: Config, facts: Facts) -> list[str]:
    """Sentences about what this node's configuration says and the log does not: for a warning at start."""
    if not is_seeded(facts):
        return []
    ours, known = _fact(config.source, stopped=False, accept_missing=""), _known(facts)
    return [
        f"source.{key} is {_shown(ours[key])} in the configuration, but the cluster's log says {_shown(known[key])}, "
        "which counts: kingbus source set changes it"
        for key in KEYS
        if key in known and known[key] != ours[key]
    ]


def shown(config: Config, facts: Facts) -> dict[str, Json]:
    """The settings for people: the fact as it is in effect."""
    return _fact(effective(config, facts), stopped=is_stopped(facts), accept_missing=accepted_missing(facts))


def _known(facts: Facts) -> dict[str, Json]:
    value = facts.get(FACT_SETTINGS)
    return value if isinstance(value, dict) else {}


def _merged(base: Mapping[str, Json], changes: Mapping[str, Json]) -> dict[str, Json]:
    """``retry: {max: …}`` leaves ``retry.initial`` as it was."""
    merged: dict[str, Json] = {}
    for key, value in changes.items():
        before = base.get(key)
        merged[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _fact(settings: SourceSettings, *, stopped: bool, accept_missing: str) -> dict[str, Json]:
    return {
        "endpoints": [str(endpoint) for endpoint in settings.endpoints],
        "flavor": settings.flavor,
        "user": settings.user,
        "server_id": settings.server_id,
        "semi_sync": settings.semi_sync,
        "compression": list(settings.compression),
        "tls": {"mode": settings.tls.mode},
        "start": settings.start,
        "retry": {"initial": settings.retry.initial, "max": settings.retry.max},
        "stopped": stopped,
        "accept_missing": accept_missing,
    }


def _shown(value: Json) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
