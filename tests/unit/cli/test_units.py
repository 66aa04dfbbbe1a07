"""Durations and sizes as people write and read them."""

from __future__ import annotations

import click
import pytest

from pipeflow.cli.units import duration, seconds, size


@pytest.mark.parametrize(
    ("written", "expected"),
    [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("2h", 7200.0), ("7d", 604_800.0), ("1.5", 1.5), (" 3 s ", 3.0)],
)
def test_durations_are_read_in_every_unit(written: str, expected: float) -> None:
    assert duration(written) == expected


@pytest.mark.parametrize("written", ["", "5 weeks", "-3s", "s", "1e3"])
def test_what_is_no_duration_is_refused_with_examples(written: str) -> None:
    with pytest.raises(click.BadParameter, match="500ms, 30s"):
        duration(written)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0s"), (0.4, "0.4s"), (42, "42s"), (303, "5m 3s"), (120, "2m"), (7440, "2h 4m"), (608_400, "7d 1h")],
)
def test_durations_are_written_in_two_units(value: float, expected: str) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_are_written_in_binary_units(value: int, expected: str) -> None:
    assert size(value) == expected
