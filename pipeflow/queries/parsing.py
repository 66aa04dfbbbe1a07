"""From the text of an expression to its parts, for the part of jq's grammar whose expressions answer at most once.

Whatever stands outside it is refused with the column, so that the same text may be given to jq itself instead.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from pipeflow.queries.functions import FUNCTIONS
from pipeflow.queries.syntax import (
    Call,
    Choice,
    Construction,
    Field,
    Identity,
    Index,
    Listing,
    Literal,
    Negation,
    Node,
    Operation,
    Pipe,
    Slice,
    Text,
    Try,
)
from pipeflow.queries.times import check_format
from pipeflow.queries.values import QueryError

MAX_TEXT: Final = 4096
MAX_PARTS: Final = 200
"""Parts of one expression. Each is at most one level, so an expression is never too deep to run."""
MAX_DEPTH: Final = 30
"""Brackets, branches and texts inside each other."""

_SKIPPED: Final = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_TOKEN: Final = re.compile(
    r"(?P<field>\.[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<word>[$@]?[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)*)"
    r"|(?P<sign>\?//=?|//=|[|+*/%-]=|//|==|!=|<=|>=|\.\.|[][(){}.,:;|?<>=+*/%\"-])",
    re.ASCII,
)
_ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX: Final = re.compile(r"[0-9A-Fa-f]{4}", re.ASCII)
_CONSTANTS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_KEYWORDS: Final = frozenset(
    ("as", "def", "then", "else", "elif", "end", "and", "or", "reduce", "foreach", "try", "catch", "label", "import",
     "include", "module", "__loc__")
)  # fmt: skip
_LEVELS: Final = (("//",), ("or",), ("and",), ("==", "!=", "<", "<=", ">", ">="), ("+", "-"), ("*", "/", "%"))
"""Operators from the loosest to the tightest; a pipe is looser than all of them."""
_COMPARISONS: Final = 3
_PRODUCTS: Final = 5


class Unsupported(Exception):
    """The text is no expression of this grammar; `column` counts from 1."""

    def __init__(self, reason: str, column: int) -> None:
        super().__init__(f"column {column}: {reason}")
        self.reason = reason
        self.column = column


def parse(text: str) -> Node:
    """The parts of an expression. Unsupported: where it leaves the grammar, and why."""
    if len(text) > MAX_TEXT:
        raise Unsupported(f"an expression of {len(text)} characters; at most {MAX_TEXT} are taken", MAX_TEXT)
    parser = _Parser(text)
    node = parser.pipe()
    if parser.token:
        parser.refuse(f"{parser.token!r} is not expected here")
    return node


class _Parser:
    """Recursive descent; `token` is the next one, empty at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._next = 0
        self._parts = 0
        self._depth = 0
        self.kind = ""
        self.token = ""
        self.advance()

    def advance(self) -> str:
        """Pass over the token, and look at the one behind it."""
        passed = self.token
        skipped = _SKIPPED.match(self._text, self._next)
        assert skipped is not None
        self._at = skipped.end()
        match = _TOKEN.match(self._text, self._at)
        if match is not None:
            self.kind, self.token, self._next = match.lastgroup or "", match[0], match.end()
        elif self._at == len(self._text):
            self.kind = self.token = ""
            self._next = self._at
        else:
            self.refuse(f"{self._text[self._at]!r} is not expected here")
        return passed

    def refuse(self, reason: str, column: int | None = None) -> NoReturn:
        """Unsupported, at the token or at a place that is given."""
        raise Unsupported(reason, (self._at if column is None else column) + 1)

    # From the loosest to the tightest

    def pipe(self) -> Node:
        """One or more expressions, each the input of the next."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} brackets inside each other")
        left = self._operation(0)
        while self._takes("|"):
            left = self._made(Pipe(left, self._operation(0)))
        self._depth -= 1
        return left

    def _operation(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        left = self._operation(level + 1)
        while self.token in _LEVELS[level] and self.kind in ("sign", "word"):
            op = self.advance()
            # `//` leans to the right, the others to the left; comparisons do not stand in a row.
            right = self._operation(level if op == "//" else level + 1)
            left = self._made(Operation(op, left, right))
            if level == _COMPARISONS and self.token in _LEVELS[level]:
                self.refuse("comparisons in a row need parentheses")
        return left

    def _unary(self) -> Node:
        if not self._takes("-"):
            return self._postfix()
        if self.token == "-":
            self.refuse("a second minus needs parentheses")
        body = self._operation(_PRODUCTS)
        match body:
            case Literal(int() | float() as value) if value and not isinstance(value, bool):
                return Literal(-value)
        return self._made(Negation(body))

    def _postfix(self) -> Node:
        node = self._term()
        while True:
            if self.kind == "field":
                node = self._made(Field(node, self.advance()[1:], self._takes("?")))
            elif self.token == "." and self._text[self._next : self._next + 1] == '"':
                self.advance()
                node = self._made(Field(node, self._name(), self._takes("?")))
            elif self.token == "[":
                node = self._bracket(node)
            elif self._takes("?"):
                node = self._made(Try(node))
            elif self.token == "as":
                self.refuse("variables are not known here")
            else:
                return node

    def _bracket(self, of: Node) -> Node:
        """What stands between brackets behind a value: a place, a name, or the two ends of a piece."""
        at = self._at
        self.advance()
        if self.token == "]":
            self.refuse("`[]` answers once for every item", at)
        if self.token == '"':
            name = self._name()
            self._expect("]")
            return self._made(Field(of, name, self._takes("?")))
        start = None if self.token == ":" else self._integer()
        if not self._takes(":"):
            self._expect("]")
            assert start is not None
            return self._made(Index(of, start, self._takes("?")))
        stop = None if self.token == "]" else self._integer()
        if start is None and stop is None:
            self.refuse("a piece needs a beginning or an end")
        self._expect("]")
        return self._made(Slice(of, start, stop, self._takes("?")))

    def _integer(self) -> int:
        negative = self._takes("-")
        if self.kind != "number" or not self.token.isdecimal() or len(self.token) > 9:
            self.refuse(f"{self.token or 'the end'!r} stands where a whole number must be written out")
        return -int(self.advance()) if negative else int(self.advance())

    # Terms

    def _term(self) -> Node:
        if self.kind == "field":
            return self._made(Field(Identity(), self.advance()[1:], self._takes("?")))
        if self.kind == "number":
            return self._made(Literal(_number(self.advance())))
        if self.kind == "word":
            return self._word()
        match self.token:
            case ".":
                return self._root()
            case '"':
                return self._string()
            case "(":
                self.advance()
                node = self.pipe()
                self._expect(")")
                return node
            case "{":
                return self._construction()
            case "[":
                return self._listing()
            case "..":
                self.refuse("`..` answers many times")
            case "":
                self.refuse("the expression ends where a value is expected")
            case token:
                self.refuse(f"{token!r} stands where a value is expected")

    def _root(self) -> Node:
        self.advance()
        if self.token == '"' and self._text[self._at - 1] == ".":
            return self._made(Field(Identity(), self._name(), self._takes("?")))
        return self._made(Identity())

    def _word(self) -> Node:
        at, word = self._at, self.advance()
        if word in _CONSTANTS:
            return self._made(Literal(_CONSTANTS[word]))
        if word == "if":
            return self._choice()
        if word in _KEYWORDS or word[0] in "$@" or "::" in word:
            self.refuse(f"{word!r} is not known here", at)
        arguments: list[Node] = []
        if self._takes("("):
            arguments.append(self.pipe())
            while self._takes(";"):
                arguments.append(self.pipe())
            self._expect(")")
        if (word, len(arguments)) not in FUNCTIONS:
            with_arguments = f" of {len(arguments)} arguments" if arguments else ""
            self.refuse(f"the function {word}{with_arguments} is not known here", at)
        self._check_format(word, arguments, at)
        return self._made(Call(word, tuple(arguments)))

    def _check_format(self, word: str, arguments: list[Node], at: int) -> None:
        if word in ("strftime", "strptime") and isinstance(arguments[0], Literal):
            if not isinstance(arguments[0].value, str):
                self.refuse(f"{word} needs a text as its format", at)
            try:
                check_format(arguments[0].value, word)
            except QueryError as error:
                self.refuse(str(error), at)

    def _choice(self) -> Node:
        test = self.pipe()
        self._expect("then")
        chosen = self.pipe()
        otherwise: Node = Identity()
        if self._takes("elif"):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                self.refuse(f"more than {MAX_DEPTH} branches")
            otherwise = self._choice()
            self._depth -= 1
            return self._made(Choice(test, chosen, otherwise))
        if self._takes("else"):
            otherwise = self.pipe()
        self._expect("end")
        return self._made(Choice(test, chosen, otherwise))

    def _listing(self) -> Node:
        self.advance()
        items: list[Node] = []
        while self.token != "]" or items:
            items.append(self.pipe())
            if not self._takes(","):
                break
        self._expect("]")
        return self._made(Listing(tuple(items)))

    def _construction(self) -> Node:
        self.advance()
        entries: list[tuple[Node, Node]] = []
        while not self._takes("}"):
            entries.append(self._entry())
            if not self._takes(","):
                self._expect("}")
                break
            if self.token == "}":
                self.refuse("a name is expected behind the comma")
        return self._made(Construction(tuple(entries)))

    def _entry(self) -> tuple[Node, Node]:
        at = self._at
        if self.token == '"':
            name = self._string()
        elif self.kind == "word" and self.token[0] not in "$@" and "::" not in self.token:
            name = Literal(self.advance())
        else:
            self.refuse(f"{self.token or 'the end'!r} stands where a name is expected")
        if self._takes(":"):
            return name, self._value()
        if isinstance(name, Text):
            self.refuse("a name with interpolations needs a value", at)
        assert isinstance(name, Literal)
        return name, self._made(Field(Identity(), str(name.value)))

    def _value(self) -> Node:
        # The comma behind it begins the next name.
        return self.pipe()

    # Texts

    def _name(self) -> str:
        at = self._at
        node = self._string()
        if not isinstance(node, Literal):
            self.refuse("a name is written out here, without interpolations", at)
        return str(node.value)

    def _string(self) -> Node:
        """The text that begins at the quote which is the token."""
        parts: list[str | Node] = []
        piece: list[str] = []
        opened, at = self._at, self._next
        while True:
            sign = self._text[at : at + 1]
            if not sign:
                self.refuse("the text has no end", opened)
            at += 1
            if sign == '"':
                break
            if sign != "\\":
                piece.append(sign)
            elif self._text[at : at + 1] == "(":
                parts += [*filter(None, ["".join(piece)]), self._interpolation(at + 1)]
                piece, at = [], self._next
            else:
                at = self._escape(at, piece)
        self._next = at
        self.advance()
        text = _whole("".join(piece))
        if not parts:
            return self._made(Literal(text))
        return self._made(Text(tuple([_whole(part) if isinstance(part, str) else part for part in [*parts, text]])))

    def _interpolation(self, at: int) -> Node:
        self._next = at
        self.advance()
        node = self.pipe()
        if self.token != ")":
            self.refuse("the interpolation has no end")
        return node

    def _escape(self, at: int, piece: list[str]) -> int:
        sign = self._text[at : at + 1]
        if sign in _ESCAPES:
            piece.append(_ESCAPES[sign])
            return at + 1
        digits = _HEX.match(self._text, at + 1) if sign == "u" else None
        if digits is None:
            self.refuse(f"'\\{sign}' is no escape", at - 1)
        piece.append(chr(int(digits[0], 16)))
        return at + 5

    # Tokens

    def _takes(self, token: str) -> bool:
        if self.token != token or self.kind not in ("sign", "word"):
            return False
        self.advance()
        return True

    def _expect(self, token: str) -> None:
        if not self._takes(token):
            found = repr(self.token) if self.token else "the end"
            self.refuse(f"{found} stands where {token!r} is expected")

    def _made(self, node: Node) -> Node:
        self._parts += 1
        if self._parts > MAX_PARTS:
            self.refuse(f"more than {MAX_PARTS} parts")
        return node


def _number(text: str) -> int | float:
    return int(text) if text.isdecimal() and len(text) < 16 else float(text)


def _whole(text: str) -> str:
    """Surrogate pairs as the character they mean; half of one is U+FFFD, as in jq."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
