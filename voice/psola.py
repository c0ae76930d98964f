"""Pitch, formants and speed of a voice by pitch-synchronous overlap and add (TD-PSOLA).

Moulines and Charpentier (1990): the voice is taken apart into windowed pieces of two periods, which
are set down again at the wanted distance. What has no pitch is set down as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from voice.audio import SAMPLE_RATE
from voice.pitch import PitchConfig, track_pitch

_FINE = 4  # grains are placed to a quarter of a sample: whole ones would roughen a high voice
_RATE = SAMPLE_RATE * _FINE
_UNVOICED_S = 0.005  # distance of grains where there is no pitch
_LEVEL_S = 0.03  # over which levels before and after are compared
_PIECE_S, _SLACK_S = 15.0, 5.0  # long signals are cut at their quietest place every 15 to 20 s
_FADE_S = 0.005


@dataclass(frozen=True, eq=False)
class _Marks:
    """Centres of a signal's periods, in fine samples, and the pitch there (0: none)."""

    at: Float[np.ndarray, " M"]
    hertz: Float[np.ndarray, " M"]


def reshaped(
    samples: Float[np.ndarray, " N"],
    *,
    pitch_ratio: float = 1.0,
    formant_ratio: float = 1.0,
    speed: float = 1.0,
) -> Float[np.ndarray, " M"]:
    """The voice with its pitch, its formants and its speed multiplied, each without the others.

    One voice at 24 kHz gives round(N / speed) samples, at the level they had. Music keeps its
    pitch: no single one is found in it.
    """
    for name, value in (
        ("pitch_ratio", pitch_ratio),
        ("formant_ratio", formant_ratio),
        ("speed", speed),
    ):
        if not 0.2 <= value <= 5.0:
            raise ValueError(f"{name}={value} is out of range; choose 0.2 to 5")
    samples = samples.astype(np.float64)
    if pitch_ratio == formant_ratio == speed == 1.0:
        return samples
    pieces, done = [], 0
    total = round(len(samples) / speed)
    for begin, end in _pieces(samples):
        length = total if end == len(samples) else round(end / speed)
        piece = samples[begin:end]
        pieces.append(_of_piece(piece, length - done, pitch_ratio, formant_ratio, speed))
        done = length
    return np.concatenate(pieces) if pieces else samples[:0]


def _pieces(samples: Float[np.ndarray, " N"]) -> list[tuple[int, int]]:
    """Ranges that cover the signal, cut where it is quietest."""
    pieces, begin = [], 0
    least, slack, hop = (round(s * SAMPLE_RATE) for s in (_PIECE_S, _SLACK_S, 0.02))
    while len(samples) - begin > least + slack:
        window = samples[begin + least : begin + least + slack]
        power = (window[: len(window) // hop * hop].reshape(-1, hop) ** 2).sum(axis=1)
        end = begin + least + int(power.argmin()) * hop + hop // 2
        pieces.append((begin, end))
        begin = end
    return [*pieces, (begin, len(samples))] if len(samples) > begin else pieces


def _of_piece(
    samples: Float[np.ndarray, " N"],
    length: int,
    pitch_ratio: float,
    formant_ratio: float,
    speed: float,
) -> Float[np.ndarray, " M"]:
    import soxr

    if length < 2 or len(samples) < round(0.02 * SAMPLE_RATE) or not samples.any():
        return np.zeros(length) if not samples.any() else np.resize(samples, length)
    fine = soxr.resample(samples, SAMPLE_RATE, _RATE, quality="HQ")
    pitch = track_pitch(samples, PitchConfig())
    marks = _find_marks(fine, pitch)
    laid = _laid(fine, marks, length * _FINE, pitch_ratio, formant_ratio, speed)
    row = soxr.resample(laid, _RATE, SAMPLE_RATE, quality="HQ")
    row = np.pad(row, (0, max(0, length - len(row))))[:length]
    return _levelled(row, samples, speed)


def _find_marks(fine: Float[np.ndarray, " N"], pitch: Float[np.ndarray, " T"]) -> _Marks:
    """Marks a period apart where there is a pitch, placed so that neighbours look alike."""
    hop = PitchConfig().hop_length * _FINE
    voiced = pitch > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], voiced.astype(int), [0]])))
    at: list[float] = []
    hertz: list[float] = []
    reached = 0.0
    step = _UNVOICED_S * _RATE

    def rest(until: float) -> None:
        nonlocal reached
        while reached < until - step / 2:
            at.append(reached)
            hertz.append(0.0)
            reached += step

    for first, last in zip(edges[::2], edges[1::2], strict=True):
        begin, end = max(0.0, (first - 0.5) * hop), min(float(len(fine)), (last - 0.5) * hop)
        frames = np.arange(first, last)
        found = _walk(fine, begin, end, frames * float(hop), pitch[first:last])
        found = [mark for mark in found if not at or mark > at[-1] + 0.4 * step]
        if not found:
            continue
        rest(found[0])
        # the last unvoiced grain may stand too near the first period
        at += found
        hertz += np.interp(found, frames * float(hop), pitch[first:last]).tolist()
        reached = found[-1] + _RATE / hertz[-1]
    rest(len(fine) + step)
    return _Marks(np.array(at), np.array(hertz))


def _walk(
    fine: Float[np.ndarray, " N"],
    begin: float,
    end: float,
    times: Float[np.ndarray, " F"],
    pitch: Float[np.ndarray, " F"],
) -> list[float]:
    """Marks of one voiced stretch, from its strongest peak to both sides."""
    low, high = int(begin), max(int(end), int(begin) + 1)
    start = low + int(np.abs(fine[low:high]).argmax())
    marks = [float(start)]
    for direction in (1, -1):
        mark = float(start)
        while True:
            period = _RATE / float(np.interp(mark, times, pitch))
            guess = mark + direction * period
            if not begin <= guess <= end:
                break
            mark = _aligned(fine, mark, guess, period)
            marks.append(mark)
    return sorted(marks)


def _aligned(fine: Float[np.ndarray, " N"], mark: float, guess: float, period: float) -> float:
    """The place near the guess where the signal looks most like it does around the mark."""
    half, slack = int(period / 2), max(2, int(0.08 * period))
    here, there = round(mark), round(guess)
    if min(here, there) < half + slack or max(here, there) + half + slack + 1 > len(fine):
        return guess
    pattern = fine[here - half : here + half]
    zone = fine[there - half - slack : there + half + slack + 1]
    likeness = np.correlate(zone, pattern, "valid")[: 2 * slack + 1]
    energy = np.cumsum(np.pad(zone**2, (1, 0)))
    likeness /= np.sqrt(energy[2 * half :][: len(likeness)] - energy[: len(likeness)] + 1e-9)
    best = int(likeness.argmax())
    # a mark that runs to the edge of its zone follows noise rather than the period
    return guess if best in (0, 2 * slack) else float(there + best - slack) + (mark - here)


def _laid(
    fine: Float[np.ndarray, " N"],
    marks: _Marks,
    length: int,
    pitch_ratio: float,
    formant_ratio: float,
    speed: float,
) -> Float[np.ndarray, " M"]:
    """The grains set down at their new distances, in fine samples."""
    laid = np.zeros(length)
    gaps = np.diff(marks.at, prepend=marks.at[0] - _UNVOICED_S * _RATE)
    gaps_after = np.append(gaps[1:], _UNVOICED_S * _RATE)
    # narrower grains have broader spectra: a voice of few harmonics, moved up, would fall into the
    # gaps between those that it had
    narrow = max(1.0, pitch_ratio / 1.5) ** -0.7
    position, before, was_voiced = 0.0, -1, False
    while position < length:
        source = position * speed
        after = int(np.searchsorted(marks.at, source))
        near = min(max(after, 0), len(marks.at) - 1)
        if near and source - marks.at[near - 1] < marks.at[near] - source:
            near -= 1
        hertz = marks.hertz[near]
        if hertz > 0 and not was_voiced:
            # begin on the mark itself, so that the stretch stays where it was in time
            while near and marks.hertz[near - 1] > 0 and marks.at[near - 1] / speed > position:
                near -= 1
            position = source = max(position, marks.at[near] / speed)
            source *= speed
            hertz = marks.hertz[near]
        was_voiced = bool(hertz > 0)
        if was_voiced:
            other = near + (1 if source > marks.at[near] else -1)
            share = 0.0
            if 0 <= other < len(marks.at) and marks.hertz[other] > 0:
                span = abs(marks.at[other] - marks.at[near])
                share = min(0.5, abs(source - marks.at[near]) / max(span, 1.0))
                hertz = (1 - share) * hertz + share * marks.hertz[other]
            for index, weight in ((near, 1.0 - share), (other, share)):
                if weight > 0:
                    width = (gaps[index] * narrow, gaps_after[index] * narrow)
                    grain = _grain(fine, marks.at[index], position, width, formant_ratio)
                    _add(laid, position, grain, weight)
            position += _RATE / (hertz * pitch_ratio)
        else:
            # a piece of noise that is heard twice running buzzes; backwards it does not
            flip = near == before
            step = gaps_after[near] if speed == 1.0 else _UNVOICED_S * _RATE
            width = (gaps[near], gaps_after[near])
            grain = _grain(fine, marks.at[near], position, width, formant_ratio, flip)
            _add(laid, position, grain, 1.0)
            before = -1 if flip else near
            position += step
    return laid


def _grain(
    fine: Float[np.ndarray, " N"],
    mark: float,
    position: float,
    width: tuple[float, float],
    formant_ratio: float,
    flip: bool = False,
) -> tuple[int, Float[np.ndarray, " G"]]:
    """First sample and values of the grain at `mark`, for a centre between samples."""
    left, right = width[0] / formant_ratio, width[1] / formant_ratio
    first, last = int(np.ceil(position - left)), int(np.floor(position + right))
    offsets = np.arange(first, last + 1) - position
    share = np.where(offsets < 0, offsets / left, offsets / right)
    window = 0.5 + 0.5 * np.cos(np.pi * share)
    places = mark + (-offsets if flip else offsets) * formant_ratio
    lower = np.floor(places).astype(np.int64)
    part = places - lower
    inside = (lower >= 0) & (lower < len(fine) - 1)
    lower = np.clip(lower, 0, len(fine) - 2)
    values = fine[lower] * (1 - part) + fine[lower + 1] * part
    return first, values * window * inside


def _add(
    laid: Float[np.ndarray, " N"],
    position: float,
    grain: tuple[int, Float[np.ndarray, " G"]],
    weight: float,
) -> None:
    first, values = grain
    begin, end = max(first, 0), min(first + len(values), len(laid))
    if end > begin:
        laid[begin:end] += weight * values[begin - first : end - first]


def _levelled(
    row: Float[np.ndarray, " M"], samples: Float[np.ndarray, " N"], speed: float
) -> Float[np.ndarray, " M"]:
    """The row with the course of level that the samples have."""
    wanted = _smooth(samples**2)
    wanted = np.interp(np.arange(len(row)) * speed, np.arange(len(samples)), wanted)
    given = _smooth(row**2)
    gain = np.sqrt((wanted + 1e-10) / (given + 1e-10))
    return np.asarray(row * np.clip(gain, 0.25, 4.0))


def _smooth(power: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Nearly a Gaussian average of deviation _LEVEL_S, by three boxes, which cost less."""
    from scipy import ndimage

    for _ in range(3):
        power = ndimage.uniform_filter1d(power, 2 * round(_LEVEL_S * SAMPLE_RATE), mode="nearest")
    return power.clip(min=0.0)
