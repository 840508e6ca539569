"""Times on the wire: milliseconds since 1970, or the ISO text of older programs. Pure arithmetic, no clock."""

from __future__ import annotations

import calendar
import re

__all__ = ["iso_text", "read_time"]

_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s*(Z|z|[+-]\d\d:?\d\d)?", re.ASCII
)
DAY_MS = 86_400_000
#: The last millisecond of the year 9999: beyond it there is no ISO text of four digits.
MAX_MS = 253_402_300_799_999


def read_time(value: float | str | None) -> float | None:
    """Milliseconds since 1970 of either form, None for what is no time. An ISO text without a zone is UTC."""
    if not isinstance(value, str):
        return value
    found = _ISO.fullmatch(value.strip())
    if found is None:
        return None
    year, month, day, hour, minute = map(int, found.group(1, 2, 3, 4, 5))
    second = int(found[6] or 0)
    if not (year and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]):
        return None
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        return None
    fraction = float(f"0.{found[7]}") if found[7] else 0.0
    seconds = calendar.timegm((year, month, day, hour, minute, second)) - _zone(found[8] or "Z")
    return seconds * 1000 + fraction * 1000


def _zone(text: str) -> int:
    """The offset of a zone in seconds."""
    if text in "Zz":
        return 0
    sign = -1 if text[0] == "-" else 1
    return sign * (int(text[1:3]) * 3600 + int(text[-2:]) * 60)


def iso_text(milliseconds: int) -> str:
    """The ISO text that JavaScript's ``toISOString`` gives: UTC, milliseconds, ``Z``. From 1970 to 9999."""
    days, rest = divmod(min(MAX_MS, max(0, milliseconds)), DAY_MS)
    year, month, day = _civil(days)
    second, ms = divmod(rest, 1000)
    return (
        f"{year:04}-{month:02}-{day:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{ms:03}Z"
    )


def _civil(days: int) -> tuple[int, int, int]:
    """The date so many days after 1970-01-01."""
    year = 1970 + days // 366  # never too late; the loop goes on by some years at most
    left = days - calendar.timegm((year, 1, 1, 0, 0, 0)) // 86_400
    while left >= (length := 366 if calendar.isleap(year) else 365):
        left -= length
        year += 1
    month = 1
    while left >= (length := calendar.monthrange(year, month)[1]):
        left -= length
        month += 1
    return year, month, left + 1
