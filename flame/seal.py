"""Lips that meet and lids that close over the eyeball, on the built head."""

from __future__ import annotations

import numpy as np
import torch

from flame.arkit import ARKIT_NAMES
from flame.blueprint import PARTS, HeadSettings
from flame.contact import nearest_on_chain, split_loop, spread
from flame.raster import rasterize
from flame.remesh import Floats, Ints, triangulate
from flame.statistics import Statistics
from flame.unwrap import boundary_loops


def seal(
    template: Floats,
    expression: Floats,
    polygons: Ints,
    parts: Ints,
    source: Statistics,
    settings: HeadSettings,
) -> None:
    """Make lips meet at rest and under mouthClose, and lids close over the eyeball."""
    surface_parts = [PARTS.index(name) for name in ("face", "neck", "mouth_bag", "eye_socket")]
    surface = polygons[np.isin(parts, surface_parts)]
    lips = _lip_loop(template, polygons, parts)
    upper, lower = split_loop(template, lips)
    field = _meet(template, surface, upper, lower, gap=0.15, reach=9.0)
    template += field
    opened = ARKIT_NAMES.index("jawOpen")
    closed = ARKIT_NAMES.index("mouthClose")
    state = template + expression[opened] + expression[closed]
    expression[closed] += _meet(state, surface, upper, lower, gap=0.05, reach=22.0)
    clearance = settings.eye_radius + settings.cornea_bulge + settings.lid_clearance
    for side in ("Left", "Right"):
        centre = source.eye_centers[0 if side == "Left" else 1]
        blink = ARKIT_NAMES.index(f"eyeBlink{side}")
        _clear_cornea(template, expression[blink], surface, centre, clearance)
        eye = polygons[parts == PARTS.index(f"eye_{side.lower()}")]
        close_lids(template, expression[blink], surface, eye, polygons, parts, centre, clearance)


def close_lids(
    template: Floats,
    blink: Floats,
    surface: Ints,
    eye: Ints,
    polygons: Ints,
    parts: Ints,
    centre: Floats,
    clearance: float,
) -> None:
    """Lower the upper lid under `blink` until no eyeball shows from the front; changes `blink`.

    The lids' borders lie inside the opening, behind the margins one sees, so borders that met
    would be far too low: the upper one goes down in small shares of the way until all is covered.
    """
    face = np.isin(parts, [PARTS.index("face"), PARTS.index("neck")])
    loops = [np.array(loop) for loop in boundary_loops(triangulate(polygons[face]))]
    loop = min(loops, key=lambda one: float(np.linalg.norm(template[one].mean(0) - centre)))
    top, bottom = split_loop(template, loop)
    before = blink.copy()
    for share in np.arange(0.0, 0.65, 0.04):
        state = template + before
        shift = share * (nearest_on_chain(state[top], state[bottom]) - state[top])
        shift[[0, -1]] = 0
        handles = np.concatenate([top, bottom[1:-1]])
        shifts = np.concatenate([shift, np.zeros((len(bottom) - 2, 3))])
        blink[:] = before
        if share > 0:
            blink += spread(template, surface, handles, shifts, reach=11.0)
            _clear_cornea(template, blink, surface, centre, clearance)
        if _shown(template + blink, surface, eye, centre) == 0:
            return


def _shown(verts: Floats, surface: Ints, eye: Ints, centre: Floats) -> int:
    """Pixels of an eyeball, a tenth of a millimetre each, that the skin leaves uncovered."""
    side, pixel = 480, 0.1
    faces = np.concatenate([triangulate(surface), triangulate(eye)])
    screen = np.stack(
        [
            (verts[:, 0] - centre[0]) / pixel + side / 2,
            side / 2 - (verts[:, 1] - centre[1]) / pixel,
            1000.0 - verts[:, 2],
        ],
        axis=1,
    )
    drawn = rasterize(torch.from_numpy(screen)[None], torch.from_numpy(faces), (side, side))
    return int((drawn.face_id >= len(triangulate(surface))).sum())


def _lip_loop(template: Floats, polygons: Ints, parts: Ints) -> Ints:
    """The border of the skin against the mouth bag."""
    face = np.isin(parts, [PARTS.index("face"), PARTS.index("neck")])
    loops = [np.array(loop) for loop in boundary_loops(triangulate(polygons[face]))]
    crossing = [loop for loop in loops if np.ptp(np.sign(template[loop, 0])) == 2]
    return max(crossing, key=lambda loop: float(template[loop, 2].mean()))


def _meet(
    state: Floats, surface: Ints, upper: Ints, lower: Ints, *, gap: float, reach: float
) -> Floats:
    """Displacement that brings two facing chains within `gap` of each other, half each."""
    to_lower = nearest_on_chain(state[upper], state[lower]) - state[upper]
    to_upper = nearest_on_chain(state[lower], state[upper]) - state[lower]

    def share(offset: Floats) -> Floats:
        length = np.linalg.norm(offset, axis=1, keepdims=True)
        return np.asarray(0.5 * offset * np.clip(1 - gap / np.maximum(length, 1e-9), 0, 1))

    handles = np.concatenate([upper, lower[1:-1]])
    shifts = np.concatenate([share(to_lower), share(to_upper)[1:-1]])
    return spread(state, surface, handles, shifts, reach=reach)


def _clear_cornea(
    template: Floats, delta: Floats, surface: Ints, centre: Floats, clearance: float
) -> None:
    """Lift lid vertices of a closed eye off the eyeball, in front of it only."""
    used = np.unique(surface)
    offset = template[used] + delta[used] - centre
    distance = np.linalg.norm(offset, axis=1)
    moving = np.linalg.norm(delta[used], axis=1) > 0.8
    inside = moving & (distance < clearance) & (offset[:, 2] > 4.0) & (distance > 1e-6)
    lift = offset * (clearance / np.maximum(distance, 1e-6) - 1)[:, None]
    delta[used[inside]] += lift[inside]
