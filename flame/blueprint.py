"""What a built head consists of: materials, parts, sizes."""

from __future__ import annotations

from dataclasses import dataclass

MATERIALS = ("skin", "eyes", "mouth", "lashes", "shirt")
PARTS = (
    "face",
    "neck",
    "mouth_bag",
    "eye_socket",
    "gums",
    "tongue",
    "teeth_upper",
    "teeth_lower",
    "eye_left",
    "eye_right",
    "lashes_left",
    "lashes_right",
    "shirt",
)
PART_MATERIAL = {
    "face": "skin",
    "neck": "skin",
    "eye_socket": "skin",
    "mouth_bag": "mouth",
    "gums": "mouth",
    "tongue": "mouth",
    "teeth_upper": "mouth",
    "teeth_lower": "mouth",
    "eye_left": "eyes",
    "eye_right": "eyes",
    "lashes_left": "lashes",
    "lashes_right": "lashes",
    "shirt": "shirt",
}


@dataclass(frozen=True)
class HeadSettings:
    """Sizes of the built head; lengths in millimetres."""

    skin_target: int = 9900  # vertices of skin, sockets and mouth bag together
    gums_target: int = 1100
    teeth_target: int = 2600
    eye_radius: float = 14.95
    cornea_bulge: float = 0.75
    lid_clearance: float = 0.30
    tongue_reach: float = 38.0
    tongue_jaw: float = 0.5  # share of jawOpen inside tongueOut, so that the tongue gets out
    shirt_thickness: float = 2.6
    shirt_floor: float = -222.0
    n_dense: int = 320
