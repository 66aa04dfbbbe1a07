"""The words of jq that no expression may use, whoever runs it: an answer follows from the record alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

FORBIDDEN: Final = frozenset(
    ("env", "$ENV", "$__prog_args", "input", "inputs", "input_filename", "input_line_number", "import", "include",
     "debug", "stderr", "halt", "halt_error", "now", "localtime", "strflocaltime", "get_search_list", "modulemeta")
)  # fmt: skip
_COMMENTS: Final = (r"[^\r\n]*", r"[^\n]*", r"(?:[^\\\r\n]|\\\r?.|\\)*")
"""Where a comment ends, by one version of jq or another; in some it goes on behind a backslash and a line break."""

_CODES: Final = tuple(
    re.compile(rf"#{comment}|(?P<mark>[\"()])|\.[A-Za-z_]\w*|(?P<word>\$?\s*[A-Za-z_]\w*)", re.ASCII | re.DOTALL)
    for comment in _COMMENTS
)
_IN_TEXT: Final = re.compile(r"\\\(|\\.|\"", re.DOTALL)


def forbidden_word(text: str) -> tuple[str, int] | None:
    """The first forbidden word and its column, from 1: in code, and in the code within texts."""
    for code in _CODES:
        for word, column in _words(text, code):
            if word in FORBIDDEN:
                return word, column
    return None


def _words(text: str, code: re.Pattern[str]) -> Iterator[tuple[str, int]]:
    """Every word of the code and its column; a text may hold code, and that texts again."""
    open_parens: list[int] = [0]
    """Of the code, and of each code within a text within it."""
    in_text = False
    at = 0
    while match := (_IN_TEXT if in_text else code).search(text, at):
        at = match.end()
        if in_text:
            in_text = False if match[0] == '"' else match[0] != "\\("
            if match[0] == "\\(":
                open_parens.append(0)
        elif match["word"]:
            yield "".join(match[0].split()), match.start() + 1
        elif match["mark"] == '"':
            in_text = True
        elif match["mark"] == "(":
            open_parens[-1] += 1
        elif match["mark"] == ")" and open_parens[-1]:
            open_parens[-1] -= 1
        elif match["mark"] == ")" and len(open_parens) > 1:
            open_parens.pop()
            in_text = True
