"""Text that others wrote, made such that it can be kept and sent on.

Half of a surrogate pair, as in the name of a file whose bytes are no UTF-8, is text to Python and in no encoding.
"""

from __future__ import annotations


def encodable(text: str) -> str:
    """The same text; what no encoding has, written as `\\udcff`."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def told(error: BaseException) -> str:
    """What an error says; also when it cannot even say it."""
    try:
        return encodable(str(error))
    except Exception as broken:
        return f"(its text cannot be had: {type(broken).__name__})"
