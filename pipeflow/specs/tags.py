"""Tags: words for operators, which change nothing."""

from __future__ import annotations

from collections.abc import Mapping

from pipeflow.errors import ConfigurationError


def check_tags(name: str, tags: Mapping[str, str]) -> None:
    """ConfigurationError: more, or longer ones, than AWS takes."""
    if len(tags) > 50 or any(not 1 <= len(key) <= 128 or len(value) > 256 for key, value in tags.items()):
        raise ConfigurationError(
            f"{name}: {len(tags)} tags; use at most 50, with keys of 1 to 128 characters and values of at most 256 "
            "(SQS: Q20, SNS: T77)"
        )
