"""Both forms of time on the wire."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpipe.machines.protocols.timestamps import MAX_MS, iso_text, read_time


@given(st.integers(min_value=0, max_value=MAX_MS))
def test_an_iso_text_is_what_everybody_else_writes_and_is_read_back(ms: int) -> None:
    text = iso_text(ms)
    assert (
        text == (datetime(1970, 1, 1) + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"
    )
    read = read_time(text)
    assert read is not None and abs(read - ms) < 0.1


def test_times_beyond_what_four_digits_of_a_year_can_say_are_the_nearest_that_can_be_said() -> None:
    assert iso_text(-5) == "1970-01-01T00:00:00.000Z"
    assert iso_text(MAX_MS + 1) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2025-07-06T00:00:00.000Z", 1751760000000),
        ("2025-07-06T00:00:00z", 1751760000000),
        ("2025-07-06 00:00", 1751760000000),
        ("2025-07-06T02:00:00+02:00", 1751760000000),
        ("2025-07-05T19:30:00-0430", 1751760000000),
        (" 2025-07-06T00:00:00,25Z ", 1751760000250),
        ("2024-02-29T00:00:00Z", 1709164800000),
    ],
)
def test_an_iso_text_is_read_with_its_zone_and_fraction(text: str, ms: float) -> None:
    assert read_time(text) == ms


@pytest.mark.parametrize(
    "text",
    ["", "now", "2025-02-29T00:00:00Z", "2025-13-01T00:00:00Z", "0000-01-01T00:00:00Z", "2025-01-01T24:00:00Z",
     "2025-01-01T00:61:00Z", "2025-01-01T00:00:61Z", "2025-01-00T00:00:00Z", "٢٠٢٥-01-01T00:00:00Z"],
)  # fmt: skip
def test_a_text_that_is_no_time_is_none(text: str) -> None:
    assert read_time(text) is None


def test_numbers_are_milliseconds_already() -> None:
    assert read_time(1751760000000) == 1751760000000
    assert read_time(None) is None
