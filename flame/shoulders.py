"""Shoulders for pictures: the shirt of a bust, drawn out to those of a body.

Heads end in a bust as wide as the neck is high; a portrait that shows its rim looks like a
statue. The shirt is a grid of rings (`flame.parts.shirt`), so its outer rings can go on where the
bust ends.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flame.head import Head
from flame.parts import SHIRT_COLUMNS

# half a body's width, m: a little less than adults' .246 and .216 over the upper arms (Gordon et
# al. 1988), as these heads are smaller by a twentieth
WIDTH = {"man": 0.228, "woman": 0.2, "child": 0.162, "": 0.212}
_DEEP = 0.54  # half the body's depth, of that
_LOW = 0.2  # m below the hem, where the cloth ends
_RINGS, _COLLAR = 16, 5  # of the shirt, and how many the collar is
_ON_BUST = (6, 8, 10, 12)  # rings that go on where they lie
_LIFT = (0.001, 0.003, 0.005, 0.006)  # m, over skin that their fewer quads would cut
_BEND = (0.16, 0.32, 0.47, 0.61, 0.75, 0.88, 1.0)  # on the way down
_ROUND = 2.5  # exponent of the body's section, 2 is an ellipse


def broadened(
    verts: Float[Tensor, "1 V 3"], head: Head, width: float = WIDTH[""]
) -> Float[Tensor, "1 V 3"]:
    """Posed vertices of the head, in metres, with the shirt on shoulders `width` from the middle.

    The body faces as the hem did. Heads without the shipped shirt stay as they are.
    """
    if "shirt" not in head.material_names:
        return verts
    cloth = head.polygons[head.material_ids == head.material_names.index("shirt")]
    first, last = int(cloth[cloth >= 0].min()), int(cloth.max())
    if (last + 1 - first) != _RINGS * SHIRT_COLUMNS:
        return verts
    rings = verts[0, first : last + 1].reshape(_RINGS, SHIRT_COLUMNS, 3)
    # the body's own axes: across, up, forward
    hem, half = rings[-1], SHIRT_COLUMNS // 2
    across = torch.nn.functional.normalize(hem[half // 2] - hem[half + half // 2], dim=0)
    forward = torch.nn.functional.normalize(hem[0] - hem[half], dim=0)
    axes = torch.stack([across, torch.linalg.cross(forward, across), forward])
    middle = hem.mean(0)
    own = (rings - middle) @ axes.T
    angle = 2 * torch.pi * torch.arange(SHIRT_COLUMNS) / SHIRT_COLUMNS
    aside, ahead = angle.sin(), angle.cos()
    reach = (aside.abs() ** _ROUND + ahead.abs() ** _ROUND) ** (-1 / _ROUND)
    bust = own[list(_ON_BUST)]
    bust[..., 1] += torch.tensor(_LIFT)[:, None]
    start, before = bust[-1], bust[-2]
    down = torch.full_like(angle, -_LOW)
    end = torch.stack([width * reach * aside, down, _DEEP * width * reach * ahead], dim=-1)
    # leave the bust as the cloth lay on it, arrive straight down
    leave = torch.nn.functional.normalize(start - before, dim=-1)
    away = torch.linalg.vector_norm((end - start)[:, [0, 2]], dim=-1, keepdim=True)
    bent = end.clone()
    bent[:, 1] = start[:, 1] - 0.35 * away[:, 0] - 0.2 * (start[:, 1] - end[:, 1])
    t = torch.tensor(_BEND)[:, None, None]
    outer = (
        (1 - t) ** 3 * start
        + 3 * (1 - t) ** 2 * t * (start + 0.55 * away * leave)
        + 3 * (1 - t) * t**2 * bent
        + t**3 * end
    )
    laid = torch.cat([own[:_COLLAR], bust, outer])
    made = verts.clone()
    made[0, first : last + 1] = (laid @ axes + middle).reshape(-1, 3)
    return made
