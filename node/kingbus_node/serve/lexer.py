"""Cutting a statement into tokens, as MySQL's manual says ("Language Structure").

Bytes that are not UTF-8 survive as surrogates, so a string literal comes out as it came in. Comments disappear, except
the executable ones: ``/*!50701 ... */`` is code for MySQL from that version on, ``/*M!100100 ... */`` only for MariaDB,
and MariaDB skips ``/*!50700 ... */`` and above because those mean MySQL's own features ("Comment Syntax" in its
manual). Time and memory are linear in the statement's length, which the session bounds; so is the number of tokens,
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from kingbus_node.wire.errors import ErrorCode, MySQLError, error

MAX_TOKENS: Final = 20_000
"""More tokens than any statement that a node answers has; a dump's GTID set comes as one string."""


class Kind(Enum):
    """What a token is."""

    WORD = auto()
    """An identifier or keyword, not quoted."""
    QUOTED = auto()
    """An identifier in backticks: never a keyword."""
    STRING = auto()
    NUMBER = auto()
    USER_VARIABLE = auto()
    """``@name``, in any quotes; the value is the name."""
    OPERATOR = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """value: without quotes and escapes. start, end: offsets in the statement."""

    kind: Kind
    value: str
    start: int
    end: int

    def is_word(self, *keywords: str) -> bool:
        """Whether this is one of `keywords` (given in upper case)."""
        return self.kind is Kind.WORD and self.value.upper() in keywords

    def is_operator(self, *operators: str) -> bool:
        """Whether this is one of `operators`."""
        return self.kind is Kind.OPERATOR and self.value in operators


@dataclass(frozen=True, slots=True)
class Dialect:
    """Whose rules hold. version: as in executable comments, 90704 for 9.7.4 and 101119 for 10.11.19."""

    mariadb: bool
    version: int

    @property
    def product(self) -> str:
        """The name that error texts use."""
        return "MariaDB" if self.mariadb else "MySQL"

    @classmethod
    def of(cls, version: str, *, mariadb: bool) -> Dialect:
        """The dialect of a server with this version text."""
        numbers = [int(part) for part in re.findall(r"\d{1,4}", version)[:3]]
        major, minor, patch = [*numbers, 0, 0, 0][:3]
        return cls(mariadb, major * 10000 + minor * 100 + patch)

    def executes(self, maria_only: bool, version: int) -> bool:
        """Whether a comment's content is code here."""
        if maria_only and not self.mariadb:
            return False
        if self.mariadb and not maria_only and 50700 <= version <= 99999:
            return False
        return version <= self.version


# Possessive quantifiers (++, *+): a quote without an end fails at once instead of being tried in every split.
_TOKEN: Final = re.compile(
    r"""
      (?P<space>   \s+ | \#[^\n]* | --(?=[\s\x00-\x1f]|$)[^\n]* )
    | (?P<comment> /\*(?P<maria>M?)(?P<code>!?) )
    | (?P<close>   \*/ )
    | (?P<string>  '(?:[^'\\]++|\\.|'')*+' | "(?:[^"\\]++|\\.|"")*+" )
    | (?P<user>    @ (?: '(?:[^'\\]++|\\.|'')*+' | "(?:[^"\\]++|\\.|"")*+" | `(?:[^`]++|``)*+` | [\w.$]+ ) )
    | (?P<quoted>  `(?:[^`]++|``)*+` )
    | (?P<hex>     0x[0-9a-fA-F]+ (?![\w$]) | [xX]'[0-9a-fA-F]*' )
    | (?P<number>  \d{1,80}\.\d{0,80}(?![\w$.]) | \.\d{1,80}(?![\w$.]) | \d{1,80}(?![\w$]) )
    | (?P<word>    [\w$]+ )
    | (?P<operator> :=|<=>|<=|>=|<>|!=|@@|\|\||&&|[-+*/%=<>(),;.!?:&|^~{}\[\]@] )
    """,
    re.VERBOSE | re.DOTALL,
)
_VERSION: Final = re.compile(r"\d{5,6}")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}


def syntax_error(text: str, at: int, dialect: Dialect) -> MySQLError:
    """ER_PARSE_ERROR: the text of both servers, with what follows `at`."""
    near = text[at : at + 80].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    line = text.count("\n", 0, at) + 1
    return error(
        ErrorCode.PARSE,
        "You have an error in your SQL syntax; check the manual that corresponds to your "
        f"{dialect.product} server version for the right syntax to use near '{near}' at line {line}",
    )


def unquote(raw: str) -> str:
    """The value of a quoted string or identifier: doubled quotes become one, and in strings escapes are undone."""
    quote = raw[0]
    inner = raw[1:-1].replace(quote * 2, quote)
    if quote == "`" or "\\" not in inner:
        return inner
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), inner)


def tokenize(text: str, dialect: Dialect) -> list[Token]:
    """The tokens of `text`, the last one of kind END. Raises `MySQLError` (1064) for what is no token."""
    tokens: list[Token] = []
    at = 0
    inside_code = False
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) >= MAX_TOKENS:
            raise syntax_error(text, at, dialect)
        start, at = at, match.end()
        group = match.lastgroup
        if group == "space":
            continue
        if match["comment"] is not None:
            at, entered = _comment(text, match, dialect)
            inside_code = inside_code or entered
            continue
        if group == "close":
            if not inside_code:
                raise syntax_error(text, start, dialect)
            inside_code = False
            continue
        tokens.append(_token(str(group), match[0], start, at))
    if inside_code:
        raise syntax_error(text, len(text), dialect)
    tokens.append(Token(Kind.END, "", len(text), len(text)))
    return tokens


def _comment(text: str, match: re.Match[str], dialect: Dialect) -> tuple[int, bool]:
    """Where to go on after the start of a comment, and whether its content is code."""
    at = match.end()
    if match["code"]:
        number = _VERSION.match(text, at)
        if dialect.executes(bool(match["maria"]), int(number[0]) if number else 0):
            return (number.end() if number else at), True
    end = text.find("*/", match.start() + 2)
    if end < 0:
        raise syntax_error(text, match.start(), dialect)
    return end + 2, False


def _token(group: str, raw: str, start: int, end: int) -> Token:
    match group:
        case "string":
            return Token(Kind.STRING, unquote(raw), start, end)
        case "quoted":
            return Token(Kind.QUOTED, unquote(raw), start, end)
        case "user":
            name = raw[1:]
            return Token(Kind.USER_VARIABLE, unquote(name) if name[0] in "'\"`" else name, start, end)
        case "hex":
            digits = raw[2:] if raw.startswith("0x") else raw[2:-1]
            value = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
            return Token(Kind.STRING, value.decode("utf-8", "surrogateescape"), start, end)
        case "number":
            return Token(Kind.NUMBER, raw, start, end)
        case "word":
            return Token(Kind.WORD, raw, start, end)
        case _:
            return Token(Kind.OPERATOR, raw, start, end)
