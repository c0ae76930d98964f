"""When the frames of a Live Link Face recording were taken, and their steady rate."""

from __future__ import annotations

import logging
import re
import statistics
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from avatar.csv_table import Table

log = logging.getLogger(__name__)

SECONDS = ("time", "times", "timesec", "seconds", "timestamp", "timestamps")
MILLISECONDS = ("timems", "timestampms", "milliseconds")
_TIMECODE = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})[:;](\d{1,3}(?:[.,]\d+)?)")
_CLOCK = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_DAY_S = 86_400
_RATES = (23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 90, 100, 119.88, 120, 240)
_EVEN = 0.02  # of a frame: timecodes are rounded to thousandths, clocks to milliseconds


def frame_times_s(table: Table, columns: Mapping[str, int]) -> Float[Tensor, " T"] | None:
    """Times of the rows from zero on, never falling; None where the table does not tell them.

    A timecode's seconds have as many frames as the counter reaches before it wraps. A recording in
    which it never wraps does not tell its rate.
    """
    known = next((name for name in ("timecode", *SECONDS, *MILLISECONDS) if name in columns), None)
    if known is None or len(table.rows) < 2:
        return None
    cells = [row[columns[known]] for row in table.rows]
    if not any(cells):
        return None
    clocks = [_CLOCK.fullmatch(cell) for cell in cells]
    codes = [_TIMECODE.fullmatch(cell) for cell in cells]
    if all(codes):
        times = _of_timecodes([match for match in codes if match])
    elif all(clocks):
        times = [_seconds(match) for match in clocks if match]
    elif known == "timecode":
        bad = next(k for k, match in enumerate(codes) if not match)
        raise AssetError(
            f"{table.path} has {cells[bad][:40]!r} as timecode in line {table.lines[bad]}; "
            "write hours:minutes:seconds:frame"
        )
    else:
        unit = 1e-3 if known in MILLISECONDS else 1.0
        times = [unit * value for value in table.numbers(columns[known])]
    return None if times is None else _rising(times, table)


def steady(times_s: Float[Tensor, " T"]) -> tuple[float, Float[Tensor, " N"] | None]:
    """A steady rate, and the fractional row that belongs to each of its frames.

    None in place of the rows where these are evenly spaced already.
    """
    steps = times_s.diff()
    usual = float(steps[steps > 0].median())
    mean = float(times_s[-1] - times_s[0]) / len(steps)
    even = torch.arange(len(times_s), dtype=torch.float64) * mean
    if float((times_s - times_s[0] - even).abs().max()) <= _EVEN * mean:
        return _named(1 / mean), None
    rate_hz = _named(1 / usual)
    count = int(float(times_s[-1] - times_s[0]) * rate_hz + 1e-6) + 1
    wanted = times_s[0] + torch.arange(count, dtype=torch.float64) / rate_hz
    after = torch.searchsorted(times_s, wanted, right=True).clamp(1, len(times_s) - 1)
    # a time that is written twice makes an interval of no length, in which nothing falls
    share = (wanted - times_s[after - 1]) / steps[after - 1].clamp_min(1e-9)
    return rate_hz, (after - 1) + share.clamp(0.0, 1.0)


def _named(rate_hz: float) -> float:
    """The customary rate that a measured one stands for, if one is within its error."""
    nearest = min(_RATES, key=lambda known: abs(known / rate_hz - 1))
    return float(nearest) if abs(nearest / rate_hz - 1) < 5e-4 else rate_hz


def _of_timecodes(codes: list[re.Match[str]]) -> list[float] | None:
    whole = [3600 * int(m[1]) + 60 * int(m[2]) + int(m[3]) for m in codes]
    frames = [float(m[4].replace(",", ".")) for m in codes]
    inside = [
        b - a for a, b, s, t in zip(frames, frames[1:], whole, whole[1:], strict=False) if s == t
    ]
    wraps = [
        (frames[k], frames[k + 1])
        for k in range(len(frames) - 1)
        if (whole[k + 1] - whole[k]) % _DAY_S == 1
    ]
    if not inside or not wraps:
        return None
    step = statistics.median(inside)
    count = statistics.median(before + step - after for before, after in wraps)
    if count <= max(frames) * 0.98 or step <= 0:
        return None  # a counter that stands still or runs backwards tells nothing
    customary = min(_RATES, key=lambda known: abs(known - count))
    if abs(customary - count) < 0.25:
        # the app's own jitter is of tenths of a frame
        count = customary if abs(customary - count) < 0.002 else float(round(count))
    return [second + frame / count for second, frame in zip(whole, frames, strict=True)]


def _seconds(match: re.Match[str]) -> float:
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3].replace(",", "."))


def _rising(times: list[float], table: Table) -> Float[Tensor, " T"]:
    """Times from zero on, past midnight too; going back is an error."""
    passed, last = 0, times[0]
    risen: list[float] = []
    for line, time in zip(table.lines, times, strict=True):
        if time < last - _DAY_S / 2:
            passed += _DAY_S
        last = time
        now = time + passed - times[0]
        if risen and now < risen[-1]:
            raise AssetError(
                f"{table.path} goes back in time at line {line}; sort its lines, or give its "
                "frames a second"
            )
        risen.append(now)
    if risen[-1] == 0:
        raise AssetError(f"{table.path} has one time on all lines; give its frames a second")
    return torch.tensor(risen, dtype=torch.float64)
