"""What is measured on a face: distances and angles between named points of a head model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.model import Flame

# Points of the 68; of pairs the one on the subject's left.
_LANDMARKS = {
    "jaw upper": 15, "jaw": 12, "chin side": 10, "menton": 8,
    "brow inner": 22, "brow middle": 24, "brow outer": 26,
    "nasion": 27, "bridge": 28, "dorsum": 29, "nose tip": 30, "subnasale": 33, "alar base": 35,
    "eye inner": 42, "lid upper inner": 43, "lid upper outer": 44, "eye outer": 45,
    "lid lower outer": 46, "lid lower inner": 47,
    "lip top": 51, "mouth corner": 54, "lip bottom": 57, "upper lip edge": 62, "lower lip edge": 66,
}  # fmt: skip
# Other points are the skin's vertices nearest to these places: mm from the nasion, on a head whose
# outer eye corners are _EYES_APART mm from each other.
_EYES_APART = 88.9
_PLACES = {
    "glabella": (0.0, 22.5, 0.1), "forehead": (0.0, 64.4, -14.8), "hairline": (0.0, 76.0, -24.0),
    "crown": (0.0, 108.0, -107.0), "occiput": (0.0, 19.0, -194.0),
    "temple": (66.0, 38.0, -59.0), "euryon": (79.1, 23.2, -109.4),
    "bridge side": (9.5, -18.0, -1.5), "alar wing": (17.5, -41.0, 0.0),
    "pogonion": (0.0, -101.3, 3.0),
    "zygion": (62.0, -28.0, -33.0), "cheekbone": (47.3, -28.4, -16.0),
    "cheek": (46.4, -56.7, -16.9), "gonion": (60.3, -82.8, -66.5),
    "tragion": (72.6, -26.5, -77.8), "ear top": (78.8, 13.1, -109.6),
    "ear lobe": (74.4, -56.8, -96.3), "ear rim": (90.4, -9.4, -120.7),
    "ear root": (72.0, -9.4, -133.4), "neck side": (56.7, -121.0, -109.2),
}  # fmt: skip
_POINTS = (*_LANDMARKS, *_PLACES)
_SKIN = ("face", "neck")

Points = dict[str, Float[Tensor, "B 3"]]


@dataclass(frozen=True, eq=False)
class Measure:
    """A named distance (mm), angle (degrees) or proportion (percent) of a face."""

    name: str
    unit: str
    of: Callable[[Points], Tensor]


@dataclass(frozen=True, eq=False)
class FacePoints:
    """The named points as linear functions of shape codes, millimetres.

    Each is the mean of the left point and the mirrored right one: what differs between the sides
    moves none of them.
    """

    mean: Float[Tensor, "P 3"]
    basis: Float[Tensor, "S P 3"]

    def at(self, shape: Float[Tensor, "B S"]) -> Points:
        """The points of some heads by name."""
        places = self.mean + torch.einsum("bs,spk->bpk", shape, self.basis)
        return dict(zip(_POINTS, places.unbind(1), strict=True))


def skin_verts(flame: Flame) -> Int[Tensor, " K"]:
    """Vertices of the face and the neck, which people see."""
    topology = flame.topology
    used = torch.zeros(len(flame.template), dtype=torch.bool, device=flame.template.device)
    polygons = topology.part_polygons(*(n for n in _SKIN if n in topology.part_names))
    used[polygons[polygons >= 0]] = True
    return used.nonzero()[:, 0]


def face_points(flame: Flame) -> FacePoints:
    """The points that MEASURES use on a head model, float64."""
    topology = flame.topology
    landmarks = list(_LANDMARKS.values())
    template = flame.template.double()
    eyes = flame.landmarks68(flame.template[None])[0].double()
    scale = float((eyes[45] - eyes[36]).norm()) / _EYES_APART  # metres a millimetre
    skin = skin_verts(flame)
    goals = eyes[27] + scale * eyes.new_tensor(list(_PLACES.values()))
    placed = skin[torch.cdist(goals, template[skin]).argmin(1)]
    verts = torch.cat([topology.landmark_verts[landmarks], placed[:, None].expand(-1, 3)])
    first = eyes.new_tensor([1.0, 0.0, 0.0]).expand(len(placed), 3)
    shares = torch.cat([topology.landmark_bary[landmarks].double(), first])
    flip = eyes.new_tensor([-1.0, 1.0, 1.0])

    def points(places: Float[Tensor, "N V 3"]) -> Float[Tensor, "N P 3"]:
        own = places[:, verts].double()
        other = places[:, topology.mirror[verts]].double() * flip
        return 1e3 * torch.einsum("npck,pc->npk", 0.5 * (own + other), shares)

    return FacePoints(points(flame.template[None])[0], points(flame.shapedirs))


def _breadth(point: str) -> Callable[[Points], Tensor]:
    return lambda p: 2 * p[point][:, 0]


def _above(upper: str, lower: str) -> Callable[[Points], Tensor]:
    return lambda p: p[upper][:, 1] - p[lower][:, 1]


def _before(front: str, back: str) -> Callable[[Points], Tensor]:
    return lambda p: p[front][:, 2] - p[back][:, 2]


def _apart(one: str, other: str) -> Callable[[Points], Tensor]:
    return lambda p: (p[one] - p[other]).norm(dim=1)


def _rise(start: str, end: str, across: int) -> Callable[[Points], Tensor]:
    """Angle above the horizontal of a line seen from the front (across=0) or the side (2)."""

    def angle(p: Points) -> Tensor:
        line = p[end] - p[start]
        return torch.rad2deg(torch.atan2(line[:, 1], line[:, across]))

    return angle


def _eye_middle(p: Points) -> Tensor:
    return 0.5 * (p["eye inner"] + p["eye outer"])


def _eye_depth(p: Points) -> Tensor:
    """How far the eyes lie behind the middle between brow and cheekbone."""
    return (0.5 * (p["brow middle"] + p["cheekbone"]) - _eye_middle(p))[:, 2]


def _lid_gap(p: Points) -> Tensor:
    upper = p["lid upper inner"] + p["lid upper outer"]
    lower = p["lid lower inner"] + p["lid lower outer"]
    return (upper - lower).square().sum(1).sqrt() / 2


def _eye_width(p: Points) -> Tensor:
    return (p["eye outer"] - p["eye inner"]).square().sum(1).sqrt()


def _hump(p: Points) -> Tensor:
    """How far the dorsum stands before the straight line from bridge to tip, seen from the side."""
    line, middle = p["nose tip"] - p["bridge"], p["dorsum"] - p["bridge"]
    cross = line[:, 2] * middle[:, 1] - line[:, 1] * middle[:, 2]
    return cross / torch.hypot(line[:, 1], line[:, 2])


def _slope(p: Points) -> Tensor:
    """How far the forehead leans back from upright."""
    line = p["forehead"] - p["glabella"]
    return torch.rad2deg(torch.atan2(-line[:, 2], line[:, 1]))


def _cheek(p: Points) -> Tensor:
    """How far the cheek stands out, half sideways and half forward, from cheekbone to jaw."""
    off = p["cheek"] - 0.5 * (p["cheekbone"] + p["jaw"])
    return (off[:, 0] + off[:, 2]) / 2**0.5


def _head_size(p: Points) -> Tensor:
    width = 2 * p["euryon"][:, 0]
    height = p["crown"][:, 1] - p["menton"][:, 1]
    length = p["glabella"][:, 2] - p["occiput"][:, 2]
    return (width * height * length) ** (1 / 3)


MEASURES: tuple[Measure, ...] = (
    Measure("nose width", "mm", _breadth("alar wing")),
    Measure("nose length", "mm", _above("nasion", "subnasale")),
    Measure("nose bridge height", "mm", _before("bridge", "eye inner")),
    Measure("nose bridge width", "mm", _breadth("bridge side")),
    Measure("nose hump", "mm", _hump),
    Measure("nose protrusion", "mm", _before("nose tip", "alar base")),
    Measure("nose tip up", "deg", _rise("subnasale", "nose tip", 2)),
    Measure("nostril width", "mm", _breadth("alar base")),
    Measure("jaw width", "mm", _breadth("gonion")),
    Measure("jaw line", "deg", _rise("menton", "gonion", 0)),
    Measure("chin width", "mm", _breadth("chin side")),
    Measure("chin length", "mm", _above("lip bottom", "menton")),
    Measure("chin protrusion", "mm", _before("pogonion", "subnasale")),
    Measure("cheekbone width", "mm", _breadth("zygion")),
    Measure("cheekbone height", "mm", _above("cheekbone", "alar base")),
    Measure("cheekbone prominence", "mm", _before("cheekbone", "eye outer")),
    Measure("cheek fullness", "mm", _cheek),
    Measure("forehead height", "mm", _above("hairline", "glabella")),
    Measure("forehead width", "mm", _breadth("temple")),
    Measure("forehead slope", "deg", _slope),
    Measure("brow ridge", "mm", lambda p: (p["brow middle"] - _eye_middle(p))[:, 2]),
    Measure("brow height", "mm", lambda p: (p["brow middle"] - _eye_middle(p))[:, 1]),
    Measure("brow tilt", "deg", _rise("brow inner", "brow outer", 0)),
    Measure("brow spacing", "mm", _breadth("brow inner")),
    Measure("eye size", "mm", lambda p: (_eye_width(p) * _lid_gap(p)).sqrt()),
    Measure("eye opening", "%", lambda p: 100 * _lid_gap(p) / _eye_width(p)),
    Measure("eye spacing", "mm", lambda p: 2 * _eye_middle(p)[:, 0]),
    Measure("eye height", "mm", lambda p: (_eye_middle(p) - p["subnasale"])[:, 1]),
    Measure("eye tilt", "deg", _rise("eye inner", "eye outer", 0)),
    Measure("eye depth", "mm", _eye_depth),
    Measure("mouth width", "mm", _breadth("mouth corner")),
    Measure("mouth height", "mm", _above("lip top", "lip bottom")),
    Measure("mouth corners up", "mm", _above("mouth corner", "upper lip edge")),
    Measure("upper lip fullness", "mm", _above("lip top", "upper lip edge")),
    Measure("lower lip fullness", "mm", _above("lower lip edge", "lip bottom")),
    Measure(
        "lip protrusion",
        "mm",
        lambda p: (0.5 * (p["lip top"] + p["lip bottom"] - p["subnasale"] - p["pogonion"]))[:, 2],
    ),
    Measure("philtrum length", "mm", _above("subnasale", "lip top")),
    Measure("face width", "mm", _breadth("jaw upper")),
    Measure("face length", "mm", _above("nasion", "menton")),
    Measure("face depth", "mm", _before("subnasale", "tragion")),
    Measure("ear size", "mm", _apart("ear top", "ear lobe")),
    Measure("ear protrusion", "mm", lambda p: (p["ear rim"] - p["ear root"])[:, 0]),
    Measure("neck width", "mm", _breadth("neck side")),
    Measure("head size", "mm", _head_size),
    Measure("head width", "mm", _breadth("euryon")),
    Measure("head length", "mm", _before("glabella", "occiput")),
    Measure("crown height", "mm", _above("crown", "glabella")),
)
