"""Numbers as options take them: a number, and not a text such as "30s", whose comparison would raise by itself."""

from __future__ import annotations

from pipeflow.errors import ConfigurationError


def check_numbers(noun: str, **numbers: object) -> None:
    """ConfigurationError for an option that is neither a number nor None; seconds and bytes have no units to write."""
    for word, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ConfigurationError(f"{noun}: {word} is {number!r}; use a number")
