"""The words of jq that no expression may use, whoever runs it: an answer follows from the record alone."""

from __future__ import annotations

import re
from typing import Final

FORBIDDEN: Final = frozenset(
    ("env", "$ENV", "$__prog_args", "input", "inputs", "input_filename", "input_line_number", "import", "include",
     "debug", "stderr", "halt", "halt_error", "now", "localtime", "strflocaltime", "get_search_list", "modulemeta")
)  # fmt: skip
_TEXT_OR_WORD: Final = re.compile(
    r"#[^\r\n]*|\"(?:[^\"\\]|\\.)*\"|\.[A-Za-z_]\w*|(?P<word>\$?\s*[A-Za-z_]\w*)", re.ASCII | re.DOTALL
)
_WORD: Final = re.compile(r"\$?[A-Za-z_]\w*", re.ASCII)


def forbidden_word(text: str) -> tuple[str, int] | None:
    """The first forbidden word and its column, from 1. In a text with interpolations all words count."""
    for match in _TEXT_OR_WORD.finditer(text):
        piece = match[0]
        if match["word"]:
            word = "".join(piece.split())
            if word in FORBIDDEN:
                return word, match.start() + 1
        elif piece[0] == '"' and "\\(" in piece:
            for inner in _WORD.finditer(piece):
                if inner[0] in FORBIDDEN:
                    return inner[0], match.start() + inner.start() + 1
    return None
