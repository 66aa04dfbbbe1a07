"""Times in prefixes: every letter of the patterns, what is refused, zones, and the turns of clocks and years."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeflow.sinks.timestamps import BadPattern, fields, instant, zone_named


def written(pattern: str, at: datetime, zone: str = "UTC") -> str:
    moment = instant(at.timestamp(), zone_named(zone))
    return "".join(field.render(moment) for field in fields(pattern))


SUNDAY = datetime(2013, 7, 7, 0, 5, 9, 42_000, UTC)
EVENING = datetime(2013, 11, 30, 21, 35, 59, 999_000, UTC)


@pytest.mark.parametrize(
    ("pattern", "sunday", "evening"),
    [
        ("yyyy", "2013", "2013"),
        ("y u yy uu uuuuu", "2013 2013 13 13 02013", "2013 2013 13 13 02013"),
        ("M MM MMM MMMM MMMMM", "7 07 Jul July J", "11 11 Nov November N"),
        ("L LL LLL LLLL LLLLL", "7 07 Jul July J", "11 11 Nov November N"),
        ("d dd", "7 07", "30 30"),
        ("D DD DDD", "188 188 188", "334 334 334"),
        ("H HH", "0 00", "21 21"),
        ("h hh a", "12 12 AM", "9 09 PM"),
        ("m mm s ss", "5 05 9 09", "35 35 59 59"),
        ("S SSS SSSSSSSSS", "0 042 042000000", "9 999 999000000"),
        ("n nnnnnnnnnn", "42000000 0042000000", "999000000 0999000000"),
        ("E EEE EEEE EEEEE", "Sun Sun Sunday S", "Sat Sat Saturday S"),
        ("e ee eee eeee eeeee", "1 01 Sun Sunday S", "7 07 Sat Saturday S"),
        ("yyyy/MM/dd/HH/", "2013/07/07/00/", "2013/11/30/21/"),
        ("'day='dd'T'HH''mm 'o''clock'", "day=07T00'05 o'clock", "day=30T21'35 o'clock"),
        ("yyyyMMdd'yyyy'", "20130707yyyy", "20131130yyyy"),
    ],
)
def test_S42_letters_mean_what_javas_formatter_means(pattern: str, sunday: str, evening: str) -> None:
    assert written(pattern, SUNDAY) == sunday
    assert written(pattern, EVENING) == evening


@pytest.mark.parametrize(
    ("pattern", "column", "wrong"),
    [
        ("yyyy-bb", 5, "the letter 'b' is unknown"),
        ("yyyyZ", 4, "the letter 'Z' is unknown"),
        ("YYYY", 0, "the letter 'Y' is unknown"),
        ("HH:MMMMMM", 3, "too many letters; use at most 5"),
        ("ddd", 0, "at most 2 of 'd'"),
        ("aa", 0, "at most 1"),
        ("DDDD", 0, "at most 3"),
        ("SSSSSSSSSS", 0, "at most 9"),
        ("yyyy'T", 4, "never closed"),
        ("yyyy[-MM]", 4, "reserved"),
        ("#", 0, "reserved"),
        ("", 0, "empty"),
    ],
)
def test_S42_what_means_nothing_is_refused_at_its_place(pattern: str, column: int, wrong: str) -> None:
    with pytest.raises(BadPattern, match=wrong) as refused:
        fields(pattern)
    assert refused.value.column == column


def test_S42_the_year_turns_where_the_zone_says() -> None:
    at = datetime(2012, 12, 31, 23, 30, tzinfo=UTC)
    assert written("yyyy/DDD/HH", at) == "2012/366/23"
    assert written("yyyy/DDD/HH", at, "Europe/Berlin") == "2013/001/00"
    assert written("yyyy/MM/dd", datetime(2013, 1, 1, 3, tzinfo=UTC), "America/New_York") == "2012/12/31"


def test_S42_the_hour_that_is_skipped_in_spring_is_not_written_and_the_one_in_autumn_twice() -> None:
    spring, autumn = datetime(2013, 3, 31, 0, 30, tzinfo=UTC), datetime(2013, 10, 27, 0, 30, tzinfo=UTC)
    assert [written("HH", spring.replace(hour=hour), "Europe/Berlin") for hour in range(3)] == ["01", "03", "04"]
    assert [written("HH", autumn.replace(hour=hour), "Europe/Berlin") for hour in range(3)] == ["02", "02", "03"]


def test_S16_a_moment_is_exact_to_the_millisecond() -> None:
    # 1357017300.29 as a float lies below .29, and its third digit must not become a 9.
    at, nanoseconds = instant(1_357_017_300.29, UTC)
    assert (at.second, nanoseconds) == (0, 290_000_000)
    assert instant(1_357_017_300.9996, UTC)[0].second == 1


@pytest.mark.parametrize("name", ["Mars/Base", "../../etc/passwd", "", "/etc/localtime"])
def test_S42_a_zone_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone_named(name)


LETTERS = st.lists(st.sampled_from("yuMLdDHhmsSaEen-/T' "), max_size=12).map("".join)


@given(LETTERS, st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1)))
def test_S42_no_time_is_written_longer_than_was_foreseen_and_all_of_it_is_ascii(pattern: str, at: datetime) -> None:
    try:
        parts = fields(pattern)
    except BadPattern:
        return
    for zone in (UTC, ZoneInfo("Asia/Kathmandu")):
        moment = instant(at.replace(tzinfo=UTC).timestamp(), zone)
        for part in parts:
            text = part.render(moment)
            assert 1 <= len(text) <= len(part.widest) or part.literal
            assert text.isascii()
