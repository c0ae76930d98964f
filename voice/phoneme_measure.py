"""How well the network hears, on speech whose sounds are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from voice.phoneme_corpus import Labelled
from voice.phoneme_net import FRAME_S, PhonemeNet
from voice.recognise import most_likely
from voice.visemes import SOUNDS, VISEME_NAMES, VISEME_OF_SOUND

LATE_S = 0.04
# how far a mouth opens, for figures alone: motion has its own table
_OPEN = {"AA": 1.0, "AE": 0.9, "AO": 0.7, "EH": 0.6, "AH": 0.5, "ER": 0.4, "IH": 0.35, "IY": 0.3}
_OPENNESS = np.array([_OPEN.get(sound, 0.2 if sound == "UW" else 0.0) for sound in SOUNDS])


@torch.no_grad()
def figures_of(net: PhonemeNet, shards: Mapping[str, Sequence[Labelled]]) -> dict[str, float]:
    """By shard: frames with the right viseme, closures and lip-to-teeth found, and how late."""
    visemes = np.array(VISEME_OF_SOUND)
    figures: dict[str, float] = {}
    for name, clips in shards.items():
        right: list[NDArray[np.bool_]] = []
        curves: list[NDArray[np.float64]] = []
        found: dict[str, list[float]] = {"PP": [], "FF": []}
        extra = spans = 0
        for clip in clips:
            logits = net(clip.mel.float()[None])[0]
            path = most_likely(torch.log_softmax(logits, 0).T.double().numpy())
            truth = clip.sounds.numpy()
            right.append(visemes[path] == visemes[truth])
            smooth = np.ones(7) / 7
            curves.append(
                np.stack([np.convolve(_OPENNESS[p], smooth, "same") for p in (path, truth)])
            )
            for viseme, offsets in found.items():
                wanted = spans_of(visemes[truth] == VISEME_NAMES.index(viseme))
                given = spans_of(visemes[path] == VISEME_NAMES.index(viseme))
                offsets += offsets_of(given, wanted)
                if viseme == "PP":
                    spans += len(given)
                    extra += sum(np.isnan(offsets_of(wanted, given)))
        both = np.concatenate(curves, axis=1)
        figures[f"{name}: viseme frames right"] = float(np.concatenate(right).mean())
        figures[f"{name}: openness correlation"] = float(
            np.asarray(np.corrcoef(both[0], both[1]))[0, 1]
        )
        for viseme, offsets in found.items():
            late = np.array(offsets)
            heard = late[~np.isnan(late)]
            figures[f"{name}: {viseme} found"] = len(heard) / max(1, len(late))
            if viseme == "PP" and len(heard):
                figures[f"{name}: PP within 40 ms, of those found"] = float(
                    (np.abs(heard) <= LATE_S + 1e-6).mean()
                )
                figures[f"{name}: PP onset error, median ms"] = 1e3 * float(
                    np.median(np.abs(heard))
                )
        figures[f"{name}: PP that are none"] = extra / max(1, spans)
    return figures


def spans_of(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First frame, and the one after the last, of each run of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def offsets_of(given: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> list[float]:
    """How much later than each wanted span the nearest given one begins, s; NaN if none is near.

    Near is what overlaps the wanted span or lies within 40 ms of it.
    """
    reach = round(LATE_S / FRAME_S)
    offsets = []
    for first, last in wanted:
        near = [a - first for a, b in given if a < last + reach and b > first - reach]
        offsets.append(min(near, key=abs) * FRAME_S if near else float("nan"))
    return offsets
