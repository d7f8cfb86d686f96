"""The statements that a node understands, and the parser that recognises them.

It is a small hand-written parser, not a grammar of SQL: replicas and tools say few things, and whatever else comes is
refused with the error that a real server would give. Both vocabularies (master/slave, source/replica) are understood in
either flavour.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from kingbus_node.serve.lexer import Dialect, Kind, Token, syntax_error, tokenize
from kingbus_node.serve.moments import SECONDS
from kingbus_node.serve.privileges import missing
from kingbus_node.wire.errors import ErrorCode, MySQLError, error

_MAX_DEPTH: Final = 32

# -- expressions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A string (bytes), a number, or NULL. A bare word as in ``SET x = ON`` is a string too."""

    value: bytes | int | Decimal | None


@dataclass(frozen=True, slots=True)
class UserVariable:
    """``@name``; the name in lower case."""

    name: str


@dataclass(frozen=True, slots=True)
class SystemVariable:
    """``@@[scope.]name``. scope: GLOBAL, SESSION, or '' when not said. name: as written."""

    scope: str
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function call; the name as written."""

    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Default:
    """``DEFAULT``, in SET."""


Expression = Literal | UserVariable | SystemVariable | Call | Default

# -- conditions of SHOW ... LIKE / WHERE -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """``column operator values``; operator is ``=``, ``LIKE`` or ``IN``. Column names are in lower case."""

    column: str
    operator: str
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Negated:
    """``NOT`` of a condition."""

    part: Condition


@dataclass(frozen=True, slots=True)
class Combined:
    """``AND`` or ``OR`` of conditions."""

    operator: str
    parts: tuple[Condition, ...]


Condition = Comparison | Combined | Negated

# -- statements --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One column of a SELECT. name: the alias, or the expression's text as written."""

    expression: Expression
    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """``SELECT item, ...``, without a table. limit: rows at most (there is one)."""

    items: tuple[Item, ...]
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """One assignment of a SET. target: a user or a system variable."""

    target: UserVariable | SystemVariable
    value: Expression


@dataclass(frozen=True, slots=True)
class SetVariables:
    """``SET a = b, ...``."""

    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class SetNames:
    """``SET NAMES charset [COLLATE c]`` and ``SET CHARACTER SET charset``; None is DEFAULT."""

    charset: str | None
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class ShowVariables:
    """``SHOW VARIABLES`` or ``SHOW STATUS``."""

    status: bool
    is_global: bool
    condition: Condition | None


@dataclass(frozen=True, slots=True)
class ShowBinlogEvents:
    """``SHOW BINLOG EVENTS [IN file] [FROM position] [LIMIT [offset,] count]``."""

    file: str | None
    position: int
    offset: int
    count: int | None


@dataclass(frozen=True, slots=True)
class ShowWarnings:
    """``SHOW WARNINGS``, ``SHOW ERRORS``; count_only: ``SHOW COUNT(*) WARNINGS``."""

    errors_only: bool
    count_only: bool


@dataclass(frozen=True, slots=True)
class ShowGrants:
    """``SHOW GRANTS [FOR user[@host]]``. user: None for one's own, as CURRENT_USER. host: None when not said."""

    user: str | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Show:
    """Another SHOW. what: BINARY LOGS, BINARY LOG STATUS, REPLICAS, REPLICA STATUS, PROCESSLIST, DATABASES.

    source_words: said in the new vocabulary, which decides the columns' names. full: ``SHOW FULL PROCESSLIST``.
    channel: ``FOR CHANNEL name``. all_channels: MariaDB's ``SHOW ALL SLAVES STATUS``.
    """

    what: str
    source_words: bool = True
    full: bool = False
    channel: str = ""
    all_channels: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """``KILL [CONNECTION | QUERY] id``."""

    connection_id: int
    query_only: bool


@dataclass(frozen=True, slots=True)
class Use:
    """``USE database``."""

    database: str


@dataclass(frozen=True, slots=True)
class PurgeLogs:
    """``PURGE BINARY LOGS TO file`` or ``BEFORE time``. interval: seconds that the time is moved by."""

    to_file: str | None
    before: Expression | None = None
    interval: float = 0.0


@dataclass(frozen=True, slots=True)
class Nothing:
    """A statement that has nothing to do on a node: transactions, locks."""


Statement = (
    Select
    | SetVariables
    | SetNames
    | ShowVariables
    | ShowBinlogEvents
    | ShowWarnings
    | ShowGrants
    | Show
    | Kill
    | Use
    | PurgeLogs
    | Nothing
)

# Statements that change data or definitions: a node is read-only, and says so with the text that a read-only server
# has.
# fmt: off
_READ_ONLY: Final = frozenset((
    "ALTER", "ANALYZE", "CALL", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "INSTALL", "LOAD", "OPTIMIZE", "RENAME",
    "REPAIR", "REPLACE", "RESTORE", "REVOKE", "TRUNCATE", "UNINSTALL", "UPDATE", "XA",
))
# fmt: on
_SLAVE_ADMIN: Final = ("SUPER or REPLICATION_SLAVE_ADMIN", "SUPER, REPLICATION SLAVE ADMIN")
_ADMINISTRATION: Final = {
    "CHANGE": _SLAVE_ADMIN,
    "CLONE": ("BACKUP_ADMIN", "SUPER"),
    "FLUSH": ("RELOAD", "RELOAD"),
    "RESET": ("RELOAD", "RELOAD"),
    "RESTART": ("SHUTDOWN", "SHUTDOWN"),
    "SHUTDOWN": ("SHUTDOWN", "SHUTDOWN"),
    "START": _SLAVE_ADMIN,
    "STOP": _SLAVE_ADMIN,
}
"""Statements for which no user of a node has the privilege, with its name in MySQL's and in MariaDB's error."""
_NAMED_TWICE: Final = (
    "Incorrect arguments to CONNECTION_NAME AND FOR CHANNEL CAN NOT BE SPECIFIED AT THE SAME TIME)"  # sic
)
_SCOPES: Final = frozenset(["GLOBAL", "SESSION", "LOCAL", "PERSIST", "PERSIST_ONLY"])
_WORDLESS_FUNCTIONS: Final = frozenset(
    ["CURRENT_USER", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "UTC_TIMESTAMP"]
)
_AFTER_ITEM: Final = ("FROM", "LIMIT", "INTO", "WHERE", "ORDER", "GROUP", "HAVING", "UNION", "FOR", "LOCK")


def read_only(dialect: Dialect) -> MySQLError:
    """ER_OPTION_PREVENTS_STATEMENT, as a server with read_only gives it."""
    return error(
        ErrorCode.OPTION_PREVENTS_STATEMENT,
        f"The {dialect.product} server is running with the --read-only option so it cannot execute this statement",
    )


def parse(statement: bytes, dialect: Dialect) -> Statement:
    """Read one statement, with or without a semicolon after it. Raises `MySQLError` for what is not understood."""
    text = statement.decode("utf-8", "surrogateescape")
    return _Parser(text, tokenize(text, dialect), dialect).statement()


def to_bytes(text: str) -> bytes:
    """The bytes of a string from a statement."""
    return text.encode("utf-8", "surrogateescape")


class _Parser:
    def __init__(self, text: str, tokens: list[Token], dialect: Dialect) -> None:
        self._text = text
        self._tokens = tokens
        self._dialect = dialect
        self._at = 0
        self._depth = 0

    # -- tokens

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind is not Kind.END:
            self._at += 1
        return token

    def _error(self) -> MySQLError:
        return syntax_error(self._text, self._token.start, self._dialect)

    def _is(self, kind: Kind) -> bool:
        return self._token.kind is kind

    def _take(self, *keywords: str) -> str | None:
        """The next token in upper case if it is one of `keywords`."""
        if self._token.is_word(*keywords):
            return self._next().value.upper()
        return None

    def _take_operator(self, *operators: str) -> bool:
        if self._token.is_operator(*operators):
            self._at += 1
            return True
        return False

    def _expect(self, *keywords: str) -> str:
        taken = self._take(*keywords)
        if taken is None:
            raise self._error()
        return taken

    def _expect_operator(self, *operators: str) -> None:
        if not self._take_operator(*operators):
            raise self._error()

    def _name(self) -> str:
        if self._token.kind not in (Kind.WORD, Kind.QUOTED):
            raise self._error()
        return self._next().value

    def _string(self) -> str:
        if not self._is(Kind.STRING):
            raise self._error()
        value = self._next().value
        while self._is(Kind.STRING):  # adjacent strings are one
            value += self._next().value
        return value

    def _integer(self) -> int:
        if self._token.kind is not Kind.NUMBER or not self._token.value.isdecimal():
            raise self._error()
        return int(self._next().value)

    def _end(self) -> None:
        while self._take_operator(";"):
            pass
        if self._token.kind is not Kind.END:
            raise self._error()

    # -- statements

    def statement(self) -> Statement:
        while self._take_operator(";"):
            pass
        if self._token.kind is Kind.END:
            if self._text.strip(" \t\r\n;"):
                return Nothing()  # a comment
            raise error(ErrorCode.EMPTY_QUERY, "Query was empty")
        start = self._token
        if start.kind is not Kind.WORD:
            raise self._error()
        match start.value.upper():
            case "SELECT":
                parsed: Statement = self._select()
            case "SET":
                parsed = self._set()
            case "SHOW":
                parsed = self._show()
            case "KILL":
                parsed = self._kill()
            case "USE":
                self._next()
                parsed = Use(self._name())
            case "PURGE":
                parsed = self._purge()
            case "BEGIN" | "COMMIT" | "ROLLBACK" | "UNLOCK" | "SAVEPOINT" | "RELEASE":
                return Nothing()
            case "START":
                self._next()
                if self._take("TRANSACTION"):
                    return Nothing()
                raise self._privilege_missing("START")
            case word if word in _READ_ONLY:
                raise read_only(self._dialect)
            case word if word in _ADMINISTRATION:
                raise self._privilege_missing(word)
            case _:
                raise self._error()
        self._end()
        return parsed

    def _privilege_missing(self, word: str) -> MySQLError:
        mysql, mariadb = _ADMINISTRATION[word]
        return missing(mysql, mariadb, mariadb=self._dialect.mariadb)

    def _select(self) -> Statement:
        self._next()
        items = [self._item()]
        while self._take_operator(","):
            items.append(self._item())
        if self._take("FROM") and not self._take("DUAL"):
            raise self._no_such_table()
        limit = None
        if self._take("LIMIT"):
            limit = self._integer()
            if self._take_operator(",") or self._take("OFFSET"):
                limit = self._integer()
        return Select(tuple(items), limit)

    def _no_such_table(self) -> MySQLError:
        """A node has no tables: the error that a server without this table gives."""
        schema: str | None = None
        name = self._name()
        if self._take_operator("."):
            schema, name = name, self._name()
        if schema is None:
            return error(ErrorCode.NO_DB, "No database selected")
        if schema.lower() == "information_schema":
            return error(ErrorCode.UNKNOWN_TABLE, f"Unknown table '{name.upper()}' in information_schema")
        return error(ErrorCode.NO_SUCH_TABLE, f"Table '{schema}.{name}' doesn't exist")

    def _item(self) -> Item:
        if self._token.is_operator("*"):
            self._next()
            if self._token.is_word("FROM"):
                self._next()
                raise self._no_such_table()
            raise error(ErrorCode.NO_TABLES_USED, "No tables used")
        first = self._token
        expression = self._expression()
        name = first.value if first.kind is Kind.STRING else self._text[first.start : self._tokens[self._at - 1].end]
        if self._take("AS"):
            name = self._string() if self._token.kind is Kind.STRING else self._name()
        elif self._token.kind in (Kind.QUOTED, Kind.STRING) or (
            self._token.kind is Kind.WORD and not self._token.is_word(*_AFTER_ITEM)
        ):
            name = self._next().value
        return Item(expression, name)

    def _set(self) -> Statement:
        self._next()
        if self._take("NAMES"):
            charset = self._charset()
            collation = self._charset() if self._take("COLLATE") else None
            return SetNames(charset, collation)
        if self._token.is_word("CHARACTER", "CHARSET"):
            if self._take("CHARACTER"):
                self._expect("SET")
            else:
                self._next()
            return SetNames(self._charset())
        scope = self._token
        if scope.is_word(*_SCOPES) and self._tokens[self._at + 1].is_word("TRANSACTION"):
            self._next()
        if self._token.is_word("TRANSACTION"):
            if scope.is_word("GLOBAL"):
                raise missing("SUPER or SYSTEM_VARIABLES_ADMIN", "SUPER", mariadb=self._dialect.mariadb)
            return self._set_transaction()
        if self._token.is_word("PASSWORD", "ROLE", "DEFAULT", "RESOURCE"):
            raise read_only(self._dialect)
        assignments = [self._assignment()]
        while self._take_operator(","):
            assignments.append(self._assignment())
        return SetVariables(tuple(assignments))

    def _set_transaction(self) -> Statement:
        """Characteristics of transactions mean nothing here: whatever words follow are taken."""
        while self._token.kind is Kind.WORD or self._token.is_operator(","):
            self._next()
        return Nothing()

    def _charset(self) -> str | None:
        if self._take("DEFAULT"):
            return None
        return self._string() if self._token.kind is Kind.STRING else self._name()

    def _assignment(self) -> Assignment:
        target: UserVariable | SystemVariable
        if self._token.kind is Kind.USER_VARIABLE:
            target = UserVariable(self._next().value.lower())
        elif self._take_operator("@@"):
            target = self._system_variable()
        elif scope := self._take(*_SCOPES):
            target = SystemVariable(_scope(scope), self._name())
        else:
            target = SystemVariable("SESSION", self._name())
        self._expect_operator("=", ":=")
        if self._take("DEFAULT"):
            return Assignment(target, Default())
        words_are_values = isinstance(target, SystemVariable)
        return Assignment(target, self._expression(words_are_values=words_are_values))

    def _system_variable(self) -> SystemVariable:
        """What follows ``@@``."""
        name = self._name()
        if self._take_operator("."):
            scope = name.upper()
            if scope in _SCOPES:
                return SystemVariable(_scope(scope), self._name())
            return SystemVariable("", f"{name}.{self._name()}")
        return SystemVariable("", name)

    def _kill(self) -> Statement:
        self._next()
        self._take("HARD", "SOFT")
        query_only = self._take("CONNECTION", "QUERY") == "QUERY"
        return Kill(self._integer(), query_only)

    def _purge(self) -> Statement:
        self._next()
        self._expect("BINARY", "MASTER")
        self._expect("LOGS")
        if self._expect("TO", "BEFORE") == "TO":
            return PurgeLogs(self._string())
        sign = {"DATE_SUB": -1, "SUBDATE": -1, "DATE_ADD": 1, "ADDDATE": 1}.get(self._token.value.upper(), 0)
        if sign and self._tokens[self._at + 1].is_operator("("):
            self._next()
            self._expect_operator("(")
            moment = self._expression()
            self._expect_operator(",")
            interval = sign * self._interval()
            self._expect_operator(")")
        else:
            moment, interval = self._expression(), 0.0
        while self._token.is_operator("+", "-"):
            sign = -1 if self._next().value == "-" else 1
            interval += sign * self._interval()
        return PurgeLogs(None, moment, interval)

    def _interval(self) -> float:
        """``INTERVAL number unit``, in seconds."""
        self._expect("INTERVAL")
        try:
            number = float(self._text_value())
        except ValueError:
            raise self._error() from None
        return number * SECONDS[self._expect(*SECONDS)]

    # -- SHOW

    def _show(self) -> Statement:
        self._next()
        scope = self._take("GLOBAL", "SESSION", "LOCAL")
        if what := self._take("VARIABLES", "STATUS"):
            return ShowVariables(what == "STATUS", scope == "GLOBAL", self._filter())
        if scope is not None:
            raise self._error()
        if self._token.is_word("COUNT"):
            return self._show_count()
        match self._take(
            "BINARY", "BINLOG", "MASTER", "REPLICAS", "REPLICA", "SLAVE", "ALL", "FULL", "PROCESSLIST", "WARNINGS",
            "ERRORS", "DATABASES", "SCHEMAS", "GRANTS",
        ):  # fmt: skip
            case "BINARY":
                return Show("BINARY LOG STATUS" if self._log_or_logs() else "BINARY LOGS")
            case "MASTER":
                return Show("BINARY LOGS" if self._expect("LOGS", "STATUS") == "LOGS" else "BINARY LOG STATUS")
            case "BINLOG":
                if self._expect("EVENTS", "STATUS") == "EVENTS":
                    return self._show_events()
                return Show("BINARY LOG STATUS")
            case "REPLICAS":
                return Show("REPLICAS")
            case "REPLICA":
                return self._show_replica(source_words=True)
            case "SLAVE":
                return self._show_replica(source_words=False)
            case "ALL":
                words = self._expect("SLAVES", "REPLICAS") == "REPLICAS"
                self._expect("STATUS")
                return Show("REPLICA STATUS", source_words=words, all_channels=True)
            case "FULL":
                self._expect("PROCESSLIST")
                return Show("PROCESSLIST", full=True)
            case "PROCESSLIST":
                return Show("PROCESSLIST")
            case "WARNINGS" | "ERRORS" as what:
                self._skip_limit()
                return ShowWarnings(what == "ERRORS", count_only=False)
            case "DATABASES" | "SCHEMAS":
                return Show("DATABASES")
            case "GRANTS":
                return self._show_grants()
            case _:
                raise self._error()

    def _show_grants(self) -> Statement:
        if not self._take("FOR"):
            return ShowGrants()
        if self._take("CURRENT_USER"):
            if self._take_operator("("):
                self._expect_operator(")")
            return ShowGrants()
        user = self._string() if self._token.kind is Kind.STRING else self._name()
        if self._token.kind is Kind.USER_VARIABLE:  # what the lexer makes of @host
            return ShowGrants(user, self._next().value)
        return ShowGrants(user, "" if self._take_operator("@") else None)

    def _log_or_logs(self) -> bool:
        """After SHOW BINARY: True for LOG STATUS, False for LOGS."""
        if self._expect("LOG", "LOGS") == "LOGS":
            return False
        self._expect("STATUS")
        return True

    def _show_replica(self, *, source_words: bool) -> Statement:
        """After SHOW REPLICA or SHOW SLAVE. MariaDB names a connection before STATUS, or as MySQL names a channel."""
        named = self._dialect.mariadb and self._token.kind is Kind.STRING
        channel = self._string() if named else ""
        if self._expect("STATUS", "HOSTS") == "HOSTS":
            if named:
                self._at -= 1
                raise self._error()
            return Show("REPLICAS", source_words=source_words)
        if self._take("FOR"):
            if named:
                raise error(ErrorCode.WRONG_ARGUMENTS, _NAMED_TWICE)
            self._expect("CHANNEL")
            channel = self._string() if self._token.kind is Kind.STRING else self._name()
        return Show("REPLICA STATUS", source_words=source_words, channel=channel)

    def _show_count(self) -> Statement:
        self._next()
        self._expect_operator("(")
        self._expect_operator("*")
        self._expect_operator(")")
        return ShowWarnings(self._expect("WARNINGS", "ERRORS") == "ERRORS", count_only=True)

    def _show_events(self) -> Statement:
        file = self._string() if self._take("IN") else None
        position = self._integer() if self._take("FROM") else 4
        offset, count = 0, None
        if self._take("LIMIT"):
            count = self._integer()
            if self._take_operator(","):
                offset, count = count, self._integer()
            elif self._take("OFFSET"):
                offset = self._integer()
            if count == 0:  # all of them, or one (captured)
                count = 1 if self._dialect.mariadb else None
        return ShowBinlogEvents(file, position, offset, count)

    def _skip_limit(self) -> None:
        if self._take("LIMIT"):
            self._integer()
            if self._take_operator(","):
                self._integer()

    def _filter(self) -> Condition | None:
        if self._take("LIKE"):
            return Comparison("variable_name", "LIKE", (self._string(),))
        if self._take("WHERE"):
            return self._condition()
        return None

    def _condition(self) -> Condition:
        parts = [self._conjunction()]
        while self._take("OR") or self._take_operator("||"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Combined("OR", tuple(parts))

    def _conjunction(self) -> Condition:
        parts = [self._comparison()]
        while self._take("AND") or self._take_operator("&&"):
            parts.append(self._comparison())
        return parts[0] if len(parts) == 1 else Combined("AND", tuple(parts))

    def _comparison(self) -> Condition:
        if self._take("NOT") or self._take_operator("!"):
            self._enter()
            inner = self._comparison()
            self._depth -= 1
            return Negated(inner)
        if self._take_operator("("):
            self._enter()
            inner = self._condition()
            self._depth -= 1
            self._expect_operator(")")
            return inner
        column = self._name().lower()
        if column not in ("variable_name", "value"):
            raise error(ErrorCode.BAD_FIELD, f"Unknown column '{column}' in '{self._clause('where clause', 'WHERE')}'")
        if self._take_operator("="):
            return Comparison(column, "=", (self._text_value(),))
        if self._take_operator("!=", "<>"):
            return Comparison(column, "=", (self._text_value(),), negated=True)
        negated = self._take("NOT") is not None
        if self._expect("LIKE", "IN") == "LIKE":
            return Comparison(column, "LIKE", (self._text_value(),), negated)
        self._expect_operator("(")
        values = [self._text_value()]
        while self._take_operator(","):
            values.append(self._text_value())
        self._expect_operator(")")
        return Comparison(column, "IN", tuple(values), negated)

    def _text_value(self) -> str:
        if self._token.kind is Kind.NUMBER:
            return self._next().value
        return self._string()

    # -- expressions

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error()

    def _expression(self, *, words_are_values: bool = False) -> Expression:
        self._enter()
        try:
            return self._operand(words_are_values)
        finally:
            self._depth -= 1

    def _operand(self, words_are_values: bool) -> Expression:
        token = self._token
        match token.kind:
            case Kind.STRING:
                return Literal(to_bytes(self._string()))
            case Kind.NUMBER:
                return Literal(_number(self._next().value))
            case Kind.USER_VARIABLE:
                return UserVariable(self._next().value.lower())
            case Kind.WORD:
                return self._word(words_are_values)
            case Kind.QUOTED if words_are_values:
                return Literal(to_bytes(self._next().value))
            case Kind.OPERATOR:
                if self._take_operator("@@"):
                    return self._system_variable()
                if self._take_operator("("):
                    if self._token.is_word("SELECT"):
                        return self._subquery()
                    inner = self._expression(words_are_values=words_are_values)
                    self._expect_operator(")")
                    return inner
                if token.value in "+-" and self._tokens[self._at + 1].kind is Kind.NUMBER:
                    self._next()
                    number = _number(self._next().value)
                    return Literal(-number if token.value == "-" else number)
            case _:
                pass
        raise self._error()

    def _subquery(self) -> Expression:
        """``(SELECT expression)``: the expression."""
        self._next()
        item = self._item()
        self._expect_operator(")")
        return item.expression

    def _word(self, words_are_values: bool) -> Expression:
        token = self._next()
        upper = token.value.upper()
        if self._take_operator("("):
            arguments: list[Expression] = []
            if not self._take_operator(")"):
                arguments.append(self._expression())
                while self._take_operator(","):
                    arguments.append(self._expression())
                self._expect_operator(")")
            return Call(token.value, tuple(arguments))
        if upper == "NULL":
            return Literal(None)
        if upper in _WORDLESS_FUNCTIONS:
            return Call(token.value, ())
        if words_are_values:
            return Literal(to_bytes(token.value))
        if upper in ("TRUE", "FALSE"):
            return Literal(int(upper == "TRUE"))
        if upper.startswith("_") and self._token.kind is Kind.STRING:  # a charset introducer, _utf8mb4'x'
            return Literal(to_bytes(self._string()))
        if upper in _AFTER_ITEM or (token.value.startswith("$") and not self._dialect.mariadb):
            self._at -= 1  # $ starts a dollar-quoted string in MySQL 9; both are reported from the word on
            raise self._error()
        raise error(ErrorCode.BAD_FIELD, f"Unknown column '{token.value}' in '{self._clause('field list', 'SELECT')}'")

    def _clause(self, mysql: str, mariadb: str) -> str:
        """What a server calls the part of a statement with a name that it does not know."""
        return mariadb if self._dialect.mariadb else mysql


def _scope(word: str) -> str:
    """GLOBAL (also for what PERSIST writes) or SESSION."""
    return "SESSION" if word.upper() in ("SESSION", "LOCAL") else "GLOBAL"


def _number(text: str) -> int | Decimal:
    return int(text) if text.isdecimal() else Decimal(text)
