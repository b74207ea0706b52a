"""From SQL text to the tree of a condition. Nothing is evaluated, and no text can exhaust the stack."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple, NoReturn

from mlclf.data.where.syntax import (
    OPPOSITE,
    Column,
    Comparison,
    Condition,
    Constant,
    Flag,
    Junction,
    Literal,
    Membership,
    Missing,
    cut,
    opposite,
)
from mlclf.errors import ConfigError

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 50
MAX_EXPONENT = 400
"""No type of a column reaches 1e400."""

KEYWORDS = frozenset(["AND", "OR", "NOT", "IN", "BETWEEN", "IS", "NULL", "TRUE", "FALSE"])
UNSUPPORTED = frozenset(["LIKE", "ILIKE", "GLOB", "REGEXP", "RLIKE", "SIMILAR", "MATCH"])
SUPPORTED = "= == != <> < <= > >=, [NOT] IN, [NOT] BETWEEN, IS [NOT] NULL, AND, OR, NOT"

MIRRORED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
OPERATORS = {"==": "=", "<>": "!="} | {operator: operator for operator in OPPOSITE}

TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<name>[^\W\d][\w.]*)
    | (?P<string>'[^']*(?:''[^']*)*')
    | (?P<quoted>"[^"]*(?:""[^"]*)*" | `[^`]*(?:``[^`]*)*`)
    | (?P<unclosed>['"`])
    | (?P<symbol><=|>=|<>|!=|==|[=<>(),+-])
    | (?P<other>[\w.]+|.)""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A piece of the text: its kind, a group of TOKEN or `end`, and where it starts."""

    kind: str
    text: str
    start: int

    @property
    def keyword(self) -> str:
        """The token in capitals where it is a keyword or a symbol, else an empty string."""
        word = self.text.upper()
        return word if self.kind == "symbol" or (self.kind == "name" and word in KEYWORDS) else ""


def parse_condition(text: str) -> tuple[Condition, tuple[str, ...]]:
    """Return the condition that a text states, and the columns that it names in order of appearance.

    Raises:
        ConfigError: says what was expected, what was found, and at which character, counted from 1.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"data.where: must have at most {MAX_CHARACTERS:,} characters, got {len(text):,}; "
            "put a column into the data that says which rows to use"
        )
    parser = _Parser(text)
    return parser.whole(), tuple(parser.columns)


class _Parser:
    """Recursive descent: either → both → term → comparison; the columns met are kept in `columns`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenized()
        self._next = 0
        self._depth = 0
        self.columns: dict[str, None] = {}

    def _tokenized(self) -> list[Token]:
        tokens = []
        undecoded = re.search("[\ud800-\udfff]", self._text)
        if undecoded is not None:
            self._fail("expected text in UTF-8, found bytes that are not", undecoded.start())
        for found in TOKEN.finditer(self._text):
            kind = found.lastgroup or ""
            if kind == "unclosed":
                what = "string" if found[0] == "'" else "column name"
                self._fail(f"expected a closing {found[0]} of the {what} that begins here", found.start())
            if kind != "space":
                tokens.append(Token(kind, found[0], found.start()))
        return [*tokens, Token("end", "", len(self._text))]

    def whole(self) -> Condition:
        condition = self._either()
        if self._token.kind != "end":
            self._expected("AND, OR or end of text")
        return condition

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._take("OR"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Junction(False, tuple(parts))

    def _both(self) -> Condition:
        parts = [self._term()]
        while self._take("AND"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else Junction(True, tuple(parts))

    def _term(self) -> Condition:
        negated = False
        while self._take("NOT"):
            negated = not negated
        condition = self._in_parentheses() if self._token.keyword == "(" else self._comparison()
        return opposite(condition) if negated else condition

    def _in_parentheses(self) -> Condition:
        if self._depth == MAX_DEPTH:
            self._fail(f"parentheses must be at most {MAX_DEPTH} deep", self._token.start)
        self._advance()
        self._depth += 1
        condition = self._either()
        self._depth -= 1
        self._require(")", "AND, OR or ')'")
        return condition

    def _comparison(self) -> Condition:
        start = self._token.start
        left = self._operand("a condition")
        operator = OPERATORS.get(self._token.text)
        if operator is not None:
            after = self._advance()
            return self._compared(left, operator, self._operand(f"a value after {after.text!r}"), start)
        if self._take("IS"):
            return self._missing(left, start)
        negated = self._take("NOT")
        if self._take("IN"):
            return Membership(self._column(left, start), self._values(), negated)
        if self._take("BETWEEN"):
            between = self._between(left, start)
            return opposite(between) if negated else between
        if self._token.kind == "name" and self._token.text.upper() in UNSUPPORTED:
            self._fail(f"{self._token.text.upper()} is not supported; what is: {SUPPORTED}", self._token.start)
        if negated:
            self._expected("IN or BETWEEN after NOT")
        return self._alone(left)

    def _alone(self, operand: Column | Literal) -> Condition:
        """A boolean column, TRUE or FALSE without a comparison."""
        joint = self._token.keyword in ("AND", "OR", ")") or self._token.kind == "end"
        if isinstance(operand, Column):
            if not joint:
                self._expected(f"a comparison after column {operand.name!r}")
            return Flag(operand)
        if not isinstance(operand.value, bool) or not joint:
            self._expected(f"a comparison after {cut(operand.text)}")
        return Constant(operand.value)

    def _missing(self, operand: Column | Literal, start: int) -> Condition:
        negated = self._take("NOT")
        self._require("NULL", "NULL after IS NOT" if negated else "NULL or NOT NULL after IS")
        return Missing(self._column(operand, start), negated)

    def _between(self, operand: Column | Literal, start: int) -> Condition:
        low = self._operand("a value after BETWEEN")
        self._require("AND", "AND and the upper bound of BETWEEN")
        high = self._operand("a value after AND, the upper bound of BETWEEN")
        bounds = self._compared(operand, ">=", low, start), self._compared(operand, "<=", high, start)
        return Junction(True, bounds)

    def _values(self) -> tuple[Literal, ...]:
        values: list[Literal] = []
        self._require("(", "'(' after IN")
        while not values or self._take(","):
            start = self._token.start
            value = self._operand("a value in the list of IN")
            if isinstance(value, Column):
                self._fail(
                    f"the list of IN takes values, found column {value.name!r}; a string stands in 'single quotes', "
                    "columns are compared with =",
                    start,
                )
            values.append(value)
        self._require(")", "',' or ')' in the list of IN")
        return tuple(values)

    def _compared(self, left: Column | Literal, operator: str, right: Column | Literal, start: int) -> Comparison:
        if isinstance(left, Column):
            return Comparison(left, operator, right)
        column = right if isinstance(right, Column) else self._column(left, start)
        return Comparison(column, MIRRORED[operator], left)

    def _column(self, operand: Column | Literal, start: int) -> Column:
        if not isinstance(operand, Column):
            self._fail(
                f"expected a column, found the value {cut(operand.text)}; column names stand without quotes, "
                'in "double quotes" or in `backticks`',
                start,
            )
        return operand

    def _operand(self, expected: str) -> Column | Literal:
        token = self._token
        if token.kind == "quoted" or (token.kind == "name" and not token.keyword):
            self._advance()
            quote = token.text[0]
            name = token.text if token.kind == "name" else token.text[1:-1].replace(quote * 2, quote)
            self.columns[name] = None
            return Column(name, quote == '"')
        if token.kind == "string":
            self._advance()
            return Literal(token.text[1:-1].replace("''", "'"), token.text)
        if token.keyword in ("TRUE", "FALSE"):
            self._advance()
            return Literal(token.keyword == "TRUE", token.keyword)
        if token.keyword == "NULL":
            self._fail("NULL cannot be compared or listed; write IS NULL or IS NOT NULL", token.start)
        if token.keyword in ("-", "+"):
            self._advance()
            if self._token.kind != "number":
                self._expected(f"a number after {token.text!r}")
            return self._number(token.text.replace("+", ""), token.start)
        if token.kind != "number":
            self._expected(expected)
        return self._number("", token.start)

    def _number(self, sign: str, start: int) -> Literal:
        text = sign + self._advance().text
        digits, _, exponent = text.lower().partition("e")
        if len(digits) > MAX_EXPONENT or len(exponent) > 5 or abs(int(exponent or 0)) > MAX_EXPONENT:
            self._fail(
                f"a number must have at most {MAX_EXPONENT} digits and an exponent of at most {MAX_EXPONENT}, "
                f"found {cut(text)}",
                start,
            )
        return Literal(Fraction(text), text)

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _advance(self) -> Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _take(self, keyword: str) -> bool:
        """Whether the next token is this keyword or symbol; if so, go past it."""
        found = self._token.keyword == keyword
        self._next += found
        return found

    def _require(self, keyword: str, what: str) -> None:
        if not self._take(keyword):
            self._expected(what)

    def _expected(self, what: str) -> NoReturn:
        token = self._token
        found = "end of text" if token.kind == "end" else repr(cut(token.text))
        self._fail(f"expected {what}, found {found}", token.start)

    def _fail(self, problem: str, start: int) -> NoReturn:
        character = min(start + 1, len(self._text))
        raise ConfigError(f"data.where: {problem} (character {character}): {_around(self._text, start)}")


def _around(text: str, start: int, width: int = 60) -> str:
    """The text near a character, in one line."""
    begin, end = max(0, start - width), start + width
    shown = re.sub(r"\s", " ", text[begin:end].encode(errors="replace").decode())
    return ("…" if begin else "") + shown + ("…" if end < len(text) else "")
