"""The node's configuration: one YAML file, overridden by environment variables, checked as a whole at start.

What this module promises:

- Every key of the file has a typed field here; an unknown key, a wrong type, a value out of range and two keys that
  contradict each other are refused with the key's path, the value (never a secret) and what was expected. All
  problems are reported at once, not one per start.
- Units are resolved here and nowhere else: sizes become bytes (``int``), durations become seconds (``float``).
- Relative file paths are relative to the folder of the configuration file, so that a node can be started from anywhere.
- Secrets are never in the configuration, only the names of the files that hold them.

Environment: ``KINGBUS_<SECTION>__<KEY>`` overrides one key, with one more ``__`` for each further level, for example
``KINGBUS_STORAGE__RETENTION__MAX_AGE=3d``. Lists are comma separated (or a YAML list). An empty value means "not set".
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

ENVIRONMENT_PREFIX = "KINGBUS_"
"""Start of every environment variable of Kingbus; those that also have a ``__`` override configuration keys."""

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-zA-Z]*)")
_SIZE_UNITS = {"": 1, "b": 1} | {
    name + suffix: base**power
    for power, name in enumerate(("k", "m", "g", "t", "p"), start=1)
    for base, suffixes in ((1024, ("i", "ib")), (1000, ("", "b")))
    for suffix in suffixes
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern}\s*)+")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.%a-z]+)\]|(?P<host>[^\s:\[\]/@]+)):(?P<port>\d{1,5})")
_UUID = r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"
_GTIDS_OF_UUID = rf"{_UUID}(?::(?:[a-z_][a-z0-9_]{{0,31}}|\d+(?:-\d+)?))+"  # after the UUID: tags and intervals
_MYSQL_GTID_SET = re.compile(rf"{_GTIDS_OF_UUID}(?:,{_GTIDS_OF_UUID})*", re.IGNORECASE)
_CONTRADICTION = "kingbus_contradiction"
_MARIADB_POSITION = re.compile(r"\d+-\d+-\d+(?:,\d+-\d+-\d+)*")


class ConfigError(Exception):
    """The configuration cannot be used. ``str()`` is for people: one line per problem, each naming the key's path."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        super().__init__(f"{where}: {problems[0]}" if len(problems) == 1 else "\n  ".join([f"{where}:", *problems]))


def _expected(what: str) -> PydanticCustomError:
    return PydanticCustomError("kingbus_expected", "expected {what}", {"what": what})


def parse_size(value: object) -> int:
    """Bytes of ``134217728``, ``"128MiB"``, ``"128Mi"``, ``"1.5GiB"`` (powers of 1024), ``"50GB"`` (powers of 1000)."""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    match = _SIZE.fullmatch(text)
    if match is None or match["unit"].lower() not in _SIZE_UNITS:
        raise _expected("a size such as 128MiB, 50GiB or a number of bytes")
    return int(Decimal(match["number"]) * _SIZE_UNITS[match["unit"].lower()])


def parse_duration(value: object) -> float:
    """Seconds of ``2.5``, ``"100ms"``, ``"1s"``, ``"1h30m"``, ``"7d"``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"\d+(?:\.\d+)?", text):
            return float(text)
        if _DURATION.fullmatch(text):
            return sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    raise _expected("a duration such as 100ms, 10s, 1h30m or 7d, or a number of seconds")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. ``host``: a name or an IP address without brackets; port 0 (listeners only): any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port`` or ``[ipv6]:port``. Raises ``ValueError`` when the text is something else."""
        match = _ADDRESS.fullmatch(text.strip())
        if match is None or int(match["port"]) > 65535 or not _can_be_looked_up(match["host"] or ""):
            raise ValueError(f"{text!r} is not an address: expected host:port or [ipv6]:port")
        return cls(match["ipv6"] or match["host"], int(match["port"]))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A host name other than ``localhost`` counts as reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _can_be_looked_up(host: str) -> bool:
    """Whether a name may be given to ``socket.getaddrinfo``: for two dots in a row, or more than 63 characters between
    dots, that raises an error which is no ``OSError``.
    """
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        try:
            return Address.parse(value)
        except ValueError as error:
            raise _expected("an address as host:port or [ipv6]:port") from error
    raise _expected("an address as host:port or [ipv6]:port")


def _endpoint(value: Address) -> Address:
    if value.port == 0:
        raise _expected("an address with a port from 1 to 65535")
    return value


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _integer(value: object) -> object:
    """YAML's ``true`` and ``1.0`` are not whole numbers, although Python would take them for one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        return int(value)
    raise _expected("a whole number")


def _relative_to_file(value: Path, info: ValidationInfo) -> Path:
    base = info.context.get("base") if isinstance(info.context, dict) else None
    return (base / value.expanduser()) if isinstance(base, Path) else value.expanduser()


def _mode(value: object) -> object:
    return value.strip().lower().replace("_", "-") if isinstance(value, str) else value


def _start(value: object) -> str:
    if isinstance(value, str):
        text = "".join(value.split())
        if text.lower() in ("earliest", "current"):
            return text.lower()
        if _MYSQL_GTID_SET.fullmatch(text) or _MARIADB_POSITION.fullmatch(text):
            return text
    raise _expected("earliest, current, a GTID set (uuid:1-5,...) or a MariaDB GTID position (0-1-5,...)")


def _workers(value: object) -> object:
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if text == "auto" or (text.isdecimal() and 1 <= int(text) <= 64):
        return text if text == "auto" else int(text)
    raise _expected("auto or a whole number from 1 to 64")


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Integer = Annotated[int, BeforeValidator(_integer)]
ServerId = Annotated[int, BeforeValidator(_integer), Field(ge=1, le=2**32 - 1)]
Listen = Annotated[Address, BeforeValidator(_address)]
Endpoint = Annotated[Address, BeforeValidator(_address), AfterValidator(_endpoint)]
FilePath = Annotated[Path, AfterValidator(_relative_to_file)]
Keyword = BeforeValidator(_mode)


def _is_section(field: FieldInfo) -> bool:
    kind = field.annotation
    return not field.is_required() and isinstance(kind, type) and issubclass(kind, BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_the_defaults(cls, value: object) -> object:
        """``tls:`` with nothing after it is YAML's null, and means what leaving it out means: every default of the
        section, which is checked like a given value so that default file names become absolute as well."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            return value
        return {name: {} for name, field in cls.model_fields.items() if _is_section(field)} | value


class NodeSettings(_Section):
    """Who this node is and where its data lies."""

    name: str = Field(default="node-1", pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$")
    data_dir: FilePath = Path("/var/lib/kingbus")


class RaftTls(_Section):
    """Mutual TLS between nodes: all three, or none."""

    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None


class RaftSettings(_Section):
    """The cluster. ``peers``: the initial members, this node among them; empty means a cluster of this node alone.

    ``join`` allows this node not to be among them: it founds nothing then, and waits to be added to their cluster.
    ``copy_rate``: bytes in a second that it sends to each node that copies its log, 0 for any number.
    """

    listen: Listen = Address("127.0.0.1", 7401)
    advertise: Endpoint | None = None
    peers: Annotated[tuple[Endpoint, ...], BeforeValidator(_listed)] = ()
    election_timeout: Annotated[Duration, Field(ge=0.05, le=600)] = 1.0
    isolation_timeout: Annotated[Duration, Field(ge=0.05, le=3600)] | None = None
    priority: Annotated[Integer, Field(ge=-1000, le=1000)] = 0
    join: bool = False
    copy_rate: Size = 200 * 1024**2
    tls: RaftTls = RaftTls()

    @property
    def isolation(self) -> float:
        """Seconds without contact to a quorum after which a node serves nothing: by default three election timeouts,
        so that an ordinary change of leaders goes by unnoticed.
        """
        return 3 * self.election_timeout if self.isolation_timeout is None else self.isolation_timeout


class ServeTls(_Section):
    """TLS offered to replicas; ``require`` refuses those that do not use it, ``ca`` asks them for a certificate."""

    cert: FilePath | None = None
    key: FilePath | None = None
    ca: FilePath | None = None
    require: bool = False


class ServeSettings(_Section):
    """The source side, to which replicas connect."""

    listen: Listen = Address("0.0.0.0", 3306)
    workers: Annotated[Literal["auto"] | int, BeforeValidator(_workers)] = "auto"
    server_id: ServerId = 101
    advertised_version: str = Field(default="auto", min_length=1, max_length=60, pattern=r"^[\x21-\x7e]+$")
    tls: ServeTls = ServeTls()
    users_file: FilePath = Path("users.yaml")
    max_connections: Annotated[Integer, Field(ge=1, le=100_000)] = 1000
    compression_algorithms: Annotated[
        tuple[Literal["zlib", "zstd", "uncompressed"], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = ("zlib", "zstd", "uncompressed")

    def worker_count(self, cpus: int) -> int:
        """How many serve processes to run; ``auto``: one per processor but the core's own, at least 1, at most 4."""
        return min(4, max(1, cpus - 1)) if self.workers == "auto" else self.workers


class SourceTls(_Section):
    """TLS toward the source.

    The modes are those of MySQL's ``--ssl-mode`` (manual, "Command Options for Encrypted Connections").
    """

    mode: Annotated[Literal["disabled", "preferred", "required", "verify-ca", "verify-identity"], Keyword] = "preferred"
    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None


class Retry(_Section):
    """Waits between attempts to connect, in seconds: they grow from ``initial`` to ``max`` and go on for ever."""

    initial: Annotated[Duration, Field(gt=0)] = 0.1
    max: Annotated[Duration, Field(gt=0)] = 10.0


class SourceSettings(_Section):
    """The replica side: the server whose binlog this cluster holds. No ``password_file`` means an empty password.

    ``user_file`` holds the user's name, for accounts that come as files; it counts more than ``user``.
    """

    endpoints: Annotated[tuple[Endpoint, ...], BeforeValidator(_listed), Field(min_length=1)]
    flavor: Annotated[Literal["auto", "mysql", "mariadb"], Keyword] = "auto"
    user: str = Field(default="", max_length=32)
    user_file: FilePath | None = None
    password_file: FilePath | None = None
    server_id: ServerId = 100
    semi_sync: bool = True
    compression: Annotated[
        tuple[Annotated[Literal["zlib", "zstd", "uncompressed"], Keyword], ...],
        BeforeValidator(_listed),
        Field(min_length=1),
    ] = ("uncompressed",)
    tls: SourceTls = SourceTls()
    start: Annotated[str, BeforeValidator(_start)] = "earliest"
    retry: Retry = Retry()


class Retention(_Section):
    """When old segments go: ``None`` is "no limit of this kind"."""

    max_age: Annotated[Duration, Field(gt=0)] | None = 7 * 86400.0
    max_bytes: Size | None = 50 * 1024**3
    keep_for_replicas: bool = True


class StorageSettings(_Section):
    """The log on disk. All sizes in bytes."""

    segment_bytes: Annotated[Size, Field(ge=64 * 1024, le=16 * 1024**3)] = 128 * 1024**2
    retention: Retention = Retention()
    min_free_bytes: Size = 1024**3


class AdminTls(_Section):
    """HTTPS for the admin API: both ``cert`` and ``key``, or none. ``ca`` verifies the other nodes' certificates."""

    cert: FilePath | None = None
    key: FilePath | None = None
    ca: FilePath | None = None


class AdminSettings(_Section):
    """The admin HTTP API. Without ``token_file`` it is open, and therefore only allowed on a loopback address."""

    listen: Listen = Address("127.0.0.1", 8080)
    advertise: Annotated[str | None, Field(pattern=r"^https?://[^\s/@]+$", max_length=300)] = None
    token_file: FilePath | None = None
    tls: AdminTls = AdminTls()


class LogSettings(_Section):
    """What the node tells about itself, and in which form."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Keyword] = "info"
    format: Annotated[Literal["text", "json"], Keyword] = "text"


class Config(_Section):
    """The whole configuration of one node."""

    node: NodeSettings = NodeSettings()
    raft: RaftSettings = RaftSettings()
    serve: ServeSettings = ServeSettings()
    source: SourceSettings
    storage: StorageSettings = StorageSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        found = list(_contradictions(self))
        if found:
            raise PydanticCustomError(_CONTRADICTION, "{text}", {"text": "\n".join(found)})
        return self


def _contradictions(config: Config) -> Iterator[str]:
    """Sentences about keys that cannot hold together although each is fine alone."""
    source, serve, storage, raft, admin = config.source, config.serve, config.storage, config.raft, config.admin
    if source.server_id == serve.server_id:
        yield (
            f"source.server_id and serve.server_id are both {serve.server_id}: expected two different ids, because the "
            "first names Kingbus to the source and the second names it to the replicas"
        )
    if not source.user and source.user_file is None:
        yield "source.user: missing; expected the account at the source, or source.user_file, a file with its name"
    if source.retry.initial > source.retry.max:
        yield (
            f"source.retry.initial ({source.retry.initial:g}s) is longer than source.retry.max "
            f"({source.retry.max:g}s): expected waits that grow"
        )
    if len(set(source.compression)) != len(source.compression):
        yield f"source.compression is {', '.join(source.compression)}: expected each once, the preferred first"
    if source.tls.mode.startswith("verify") and source.tls.ca is None:
        yield f"source.tls.mode is {source.tls.mode}: expected source.tls.ca, the file of the CA to verify against"
    if source.flavor == "mariadb" and _MYSQL_GTID_SET.fullmatch(source.start):
        yield "source.start is a MySQL GTID set, but source.flavor is mariadb: expected a position such as 0-1-5"
    if source.flavor == "mysql" and _MARIADB_POSITION.fullmatch(source.start):
        yield "source.start is a MariaDB GTID position, but source.flavor is mysql: expected a set such as uuid:1-5"
    pairs: dict[str, SourceTls | ServeTls | AdminTls | RaftTls] = {
        "source.tls": source.tls,
        "serve.tls": serve.tls,
        "admin.tls": admin.tls,
        "raft.tls": raft.tls,
    }
    for path, tls in pairs.items():
        if (tls.cert is None) != (tls.key is None):
            given, missing = ("cert", "key") if tls.key is None else ("key", "cert")
            yield f"{path}.{given} is set but {path}.{missing} is not: expected both or none"
    if (raft.tls.cert is None) != (raft.tls.ca is None):
        yield "raft.tls: expected ca, cert and key together, or none of them"
    if storage.retention.max_bytes is not None and storage.retention.max_bytes < storage.segment_bytes:
        yield (
            f"storage.retention.max_bytes ({storage.retention.max_bytes}) is smaller than storage.segment_bytes "
            f"({storage.segment_bytes}): expected room for at least one segment"
        )
    listeners = {"serve.listen": serve.listen, "admin.listen": admin.listen, "raft.listen": raft.listen}
    seen: dict[Address, str] = {}
    for path, listen in listeners.items():
        if listen.port and listen in seen:
            yield f"{seen[listen]} and {path} are both {listen}: expected two different ports"
        seen.setdefault(listen, path)
    own = raft.advertise or raft.listen
    if raft.peers and own not in raft.peers and not raft.join:
        yield (
            f"raft.peers does not hold this node's own address {own} (raft.advertise): expected it among the members, "
            "or raft.join: true for a node that waits to be added"
        )
    if len(set(raft.peers)) != len(raft.peers):
        yield "raft.peers names the same address twice: expected each member once"
    if admin.token_file is None and not admin.listen.is_loopback:
        yield (
            f"admin.listen is {admin.listen}, which others can reach, but admin.token_file is not set: expected a "
            "token file, or an address of this machine only such as 127.0.0.1:8080"
        )


def load(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read the YAML file at ``path``, apply the environment (default: the process's own), check everything.

    Raises ``ConfigError`` when the file cannot be read, is not YAML, or holds something that cannot be used; a file
    that the configuration names and that cannot be read is an error as well.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot read the configuration: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), ["expected a text file in UTF-8"]) from error
    try:
        document: object = yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader: no objects are built
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark  # the text around it is not shown: it may hold a secret that was put there by mistake
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(str(path), [f"{place}not valid YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), ["not valid YAML"]) from error
    variables = os.environ if environment is None else environment
    config = parse(document, path.absolute().parent, variables, where=str(path))
    unreadable = list(_unreadable_files(config))
    if unreadable:
        raise ConfigError(str(path), unreadable)
    return config


def parse(document: object, base: Path, environment: Mapping[str, str], *, where: str = "configuration") -> Config:
    """Check a parsed document (no file is touched). ``base`` is the folder that relative paths start from."""
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(where, [f"expected a mapping of sections ({', '.join(Config.model_fields)})"])
    overridden = _apply_environment(document, environment, where)
    try:
        return Config.model_validate(overridden.document, context={"base": base})
    except ValidationError as error:
        told = [_problem(details, overridden.names) for details in error.errors(include_url=False)]
        raise ConfigError(where, "\n".join(told).split("\n")) from None  # contradictions come as one, a line each


def with_source(config: Config, changes: Mapping[str, object]) -> SourceSettings:
    """``config.source`` with some of its keys changed, checked together with the rest of the configuration.

    Keys of ``tls`` and ``retry`` that are not among the changes stay as they are. Raises ``ConfigError``.
    """
    source: dict[str, object] = dict(config.source)
    for name, value in changes.items():
        now = source.get(name)
        section = dict(now) if isinstance(now, BaseModel) and isinstance(value, Mapping) else None
        source[name] = value if section is None or not isinstance(value, Mapping) else {**section, **value}
    try:
        return Config.model_validate({**dict(config), "source": source}).source
    except ValidationError as error:
        told = [_problem(details, {}) for details in error.errors(include_url=False)]
        raise ConfigError("source settings", "\n".join(told).split("\n")) from None


@dataclass(frozen=True, slots=True)
class _Overridden:
    document: dict[str, object]
    names: Mapping[tuple[str, ...], str]


def _apply_environment(document: Mapping[object, object], environment: Mapping[str, str], where: str) -> _Overridden:
    result: dict[str, object] = {str(key): value for key, value in document.items()}
    names: dict[tuple[str, ...], str] = {}
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        keys = tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
        section = result
        for key in keys[:-1]:
            inner = section.get(key)
            if inner is not None and not isinstance(inner, dict):
                raise ConfigError(where, [f"{name}: {key} is not a section"])
            copied: dict[str, object] = {str(k): v for k, v in (inner or {}).items()}
            section[key] = copied
            section = copied
        section[keys[-1]] = _environment_value(environment[name])
        names[keys] = name
    return _Overridden(result, names)


def _environment_value(text: str) -> object:
    """Lists and mappings may be given as YAML; anything else stays text and is converted by the field's own rules."""
    text = text.strip()
    if text[:1] in ("[", "{"):
        try:
            value: object = yaml.safe_load(text)
        except yaml.YAMLError:
            return text  # for example an IPv6 address in brackets
        if isinstance(value, dict | list):
            return value
    return text or None


def _problem(details: ErrorDetails, names: Mapping[tuple[str, ...], str]) -> str:
    kind, location = details["type"], details["loc"]
    path = ".".join(str(part) for part in location)
    name = names.get(tuple(str(part) for part in location))
    at = f"{path} (from {name})" if name else path
    if kind == _CONTRADICTION:
        return details["msg"]
    if kind == "extra_forbidden":
        return f"{at}: unknown key; {_known_keys(location)}"  # without its value, which may be a misplaced password
    if kind == "missing":
        return f"{at}: missing; expected a value"
    if kind == "model_type":
        return f"{at}: expected a section with keys"
    if kind.startswith("path_"):
        return f"{at}: expected the name of a file"
    message = (
        details["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "expected")
        .replace("a valid string", "text")
    )
    message = message if message.startswith("expected") else f"expected something else: {message}"
    value = details["input"]
    if not isinstance(value, str | int | float):
        return f"{at}: {message}"  # a whole list or mapping helps nobody, and may hold anything
    return f"{at}: {repr(value)[:100]}: {message}" if _may_show(location, value) else f"{at}: {message}"


def _may_show(location: tuple[int | str, ...], value: object) -> bool:
    """Not what is named like a secret, and no address that has an account with its password before it."""
    named = any(word in str(part).lower() for part in location for word in ("password", "token", "secret"))
    return not named and re.search(r":.*@", str(value), re.DOTALL) is None


def _known_keys(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
            break
        model = annotation
    close = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(model.model_fields)}"


def _unreadable_files(config: Config) -> Iterator[str]:
    for path, value in _leaves(config, ()):
        if isinstance(value, Path) and path != ("node", "data_dir"):
            try:
                if path == ("serve", "users_file") and value.is_dir():
                    continue
                with value.open("rb"):
                    pass
            except OSError as error:
                yield f"{'.'.join(path)}: {str(value)!r}: expected a file that can be read ({error.strerror})"


def _leaves(section: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, but a key that stands twice in one mapping is an error and not "the last one wins"."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key: object = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool):
                if key in seen:
                    problem = f"the key {key!r} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen.add(key)
        mapping: dict[object, object] = super().construct_mapping(node, deep)
        return mapping
