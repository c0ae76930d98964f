"""Random people before a camera: who they are, what their faces do, how they are lit and seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.arkit import ARKIT_INDEX, ARKIT_NAMES, mirrored_name
from flame.camera import Camera
from flame.light import SH_CONSTANTS, Lights
from flame.params import LOOK_DEG
from flame.sliders import RANDOM_LIMIT

SHAPE_LIMIT = RANDOM_LIMIT  # standard deviations
_PARTNER = torch.tensor([ARKIT_INDEX[mirrored_name(name)] for name in ARKIT_NAMES])

# What faces do together: (probability, word for captions, range of each ARKit weight).
_Acts = dict[str, tuple[float, float]]
_SMILE: _Acts = {
    "mouthSmileLeft": (0.25, 1.0), "mouthSmileRight": (0.25, 1.0),
    "cheekSquintLeft": (0.0, 0.8), "cheekSquintRight": (0.0, 0.8),
    "mouthDimpleLeft": (-0.3, 0.5), "mouthDimpleRight": (-0.3, 0.5),
    "mouthStretchLeft": (-0.2, 0.4), "mouthStretchRight": (-0.2, 0.4),
    "eyeSquintLeft": (-0.2, 0.6), "eyeSquintRight": (-0.2, 0.6),
}  # fmt: skip
# Portraits smile with their teeth.
_TEETH: _Acts = {
    **_SMILE,
    "mouthSmileLeft": (0.4, 1.0), "mouthSmileRight": (0.4, 1.0),
    "mouthUpperUpLeft": (0.05, 0.8), "mouthUpperUpRight": (0.05, 0.8),
    "mouthLowerDownLeft": (0.0, 0.8), "mouthLowerDownRight": (0.0, 0.8),
    "mouthShrugLower": (-0.6, 0.2), "jawOpen": (-0.1, 0.45),
}  # fmt: skip
_SPEECH: _Acts = {
    "jawOpen": (0.0, 0.55), "mouthClose": (-0.3, 0.4), "mouthFunnel": (-0.5, 0.8),
    "mouthPucker": (-0.5, 0.9), "mouthRollLower": (-0.5, 0.5), "mouthRollUpper": (-0.5, 0.4),
    "mouthPressLeft": (-0.4, 0.5), "mouthPressRight": (-0.4, 0.5),
    "mouthLowerDownLeft": (-0.2, 0.6), "mouthLowerDownRight": (-0.2, 0.6),
    "mouthUpperUpLeft": (-0.3, 0.5), "mouthUpperUpRight": (-0.3, 0.5),
    "mouthStretchLeft": (-0.4, 0.4), "mouthStretchRight": (-0.4, 0.4),
    "mouthShrugLower": (-0.4, 0.4), "mouthShrugUpper": (-0.5, 0.3),
    "tongueOut": (-2.0, 0.4),
}  # fmt: skip
_SURPRISE: _Acts = {
    "browInnerUp": (0.3, 1.0), "browOuterUpLeft": (0.1, 1.0), "browOuterUpRight": (0.1, 1.0),
    "eyeWideLeft": (0.1, 0.9), "eyeWideRight": (0.1, 0.9), "jawOpen": (0.0, 0.8),
    "mouthFunnel": (-0.5, 0.5),
}  # fmt: skip
_ANGER: _Acts = {
    "browDownLeft": (0.3, 1.0), "browDownRight": (0.3, 1.0),
    "noseSneerLeft": (-0.2, 0.8), "noseSneerRight": (-0.2, 0.8),
    "eyeSquintLeft": (0.0, 0.7), "eyeSquintRight": (0.0, 0.7),
    "mouthPressLeft": (-0.3, 0.8), "mouthPressRight": (-0.3, 0.8),
    "mouthFrownLeft": (-0.3, 0.7), "mouthFrownRight": (-0.3, 0.7),
    "mouthUpperUpLeft": (-0.4, 0.5), "mouthUpperUpRight": (-0.4, 0.5),
}  # fmt: skip
_SADNESS: _Acts = {
    "browInnerUp": (0.2, 1.0), "mouthFrownLeft": (0.2, 1.0), "mouthFrownRight": (0.2, 1.0),
    "mouthShrugLower": (-0.2, 0.8), "eyeSquintLeft": (-0.2, 0.5), "eyeSquintRight": (-0.2, 0.5),
}  # fmt: skip
_FREE, FREE_SHARE = "grimacing", 0.30
_MOODS: tuple[tuple[float, str, _Acts], ...] = (
    (0.22, "neutral", {}),
    (0.10, "smiling", _SMILE),
    (0.13, "laughing", _TEETH),
    (0.10, "speaking", _SPEECH),
    (0.05, "surprised", _SURPRISE),
    (0.05, "angry", _ANGER),
    (0.05, "sad", _SADNESS),
    (FREE_SHARE, _FREE, {}),  # any shapes at random: faces do what no list of moods foresees
)


@dataclass(frozen=True, eq=False)
class Face:
    """ARKit weights of one picture, and the word for them."""

    weights: Float[Tensor, " 52"]
    word: str


def draw_shape(count: int, n_shape: int, *, generator: torch.Generator) -> Float[Tensor, "N S"]:
    """Identities of the statistics' population, held to 2.5 standard deviations."""
    return torch.randn(count, n_shape, generator=generator).clamp(-SHAPE_LIMIT, SHAPE_LIMIT)


def draw_face(*, free_share: float = FREE_SHARE, generator: torch.Generator) -> Face:
    """A facial expression: a mood, or a few shapes at random; then brows, lids and gaze on top.

    `free_share` of the faces are of no mood.
    """

    def uniform(low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    moods = (1 - free_share) / (1 - FREE_SHARE)
    chances = torch.tensor(
        [free_share if word == _FREE else moods * chance for chance, word, _ in _MOODS]
    )
    _, word, acts = _MOODS[int(torch.multinomial(chances, 1, generator=generator))]
    weights = torch.zeros(len(ARKIT_NAMES))
    # the two sides share this much of their chance
    alike = min(1.0, uniform(0.5, 1.4))
    common = torch.rand(len(ARKIT_NAMES), generator=generator)
    common = common[torch.minimum(_PARTNER, torch.arange(len(_PARTNER)))]
    own = torch.rand(len(ARKIT_NAMES), generator=generator)
    share = alike * common + (1 - alike) * own
    for name, (low, high) in acts.items():
        weights[ARKIT_INDEX[name]] = low + (high - low) * share[ARKIT_INDEX[name]]
    if word == _FREE:
        chosen = torch.randperm(len(ARKIT_NAMES), generator=generator)[: int(uniform(2.0, 13.0))]
        weights[chosen] = 0.1 + 0.9 * share[chosen]
        paired = torch.rand(len(chosen), generator=generator) < 0.7
        weights[_PARTNER[chosen[paired]]] = weights[chosen[paired]]
    elif word == "neutral" and uniform() < 0.5:
        _look(weights, generator)
        return Face(weights.clamp(0, 1), word)  # wholly at rest
    else:
        # nobody's face is a pure mood
        stray = torch.randperm(len(ARKIT_NAMES), generator=generator)[:6]
        weights[stray] += 0.3 * torch.rand(6, generator=generator) ** 2
    for name in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight", "browDownLeft"):
        weights[ARKIT_INDEX[name]] += 0.5 * max(0.0, uniform(-1.0, 1.0))
    weights[ARKIT_INDEX["browDownRight"]] += float(weights[ARKIT_INDEX["browDownLeft"]]) * uniform()
    if word in ("neutral", "smiling") and uniform() < 0.25:
        weights[ARKIT_INDEX["jawOpen"]] = uniform(0.0, 0.25)
    _look(weights, generator)
    lids = uniform(0.55, 1.0) if uniform() < 0.10 else 0.35 * uniform() ** 2
    for side in ("Left", "Right"):
        weights[ARKIT_INDEX[f"eyeBlink{side}"]] = lids * uniform(0.9, 1.0)
    if uniform() < 0.02:
        weights[ARKIT_INDEX["eyeBlinkLeft"]] = uniform(0.7, 1.0)  # a wink
        word = "winking"
    elif lids > 0.5:
        word = f"{word}, eyes closed" if lids > 0.8 else word
    return Face(weights.clamp(0, 1), word)


def _look(weights: Tensor, generator: torch.Generator) -> None:
    """Turn both eyes to a random direction; they converge a little."""
    yaw, pitch = (torch.randn(2, generator=generator) * torch.tensor([11.0, 7.0])).tolist()
    vergence = 3.0 * float(torch.rand((), generator=generator))
    for side, outward in (("Left", 1.0), ("Right", -1.0)):
        turn = yaw * outward - vergence
        weights[ARKIT_INDEX[f"eyeLookOut{side}"]] = max(turn, 0.0) / LOOK_DEG["Out"]
        weights[ARKIT_INDEX[f"eyeLookIn{side}"]] = max(-turn, 0.0) / LOOK_DEG["In"]
        weights[ARKIT_INDEX[f"eyeLookUp{side}"]] = max(pitch, 0.0) / LOOK_DEG["Up"]
        weights[ARKIT_INDEX[f"eyeLookDown{side}"]] = max(-pitch, 0.0) / LOOK_DEG["Down"]


def draw_turn(*, generator: torch.Generator) -> Float[Tensor, " 3"]:
    """Yaw, pitch and roll of a head, degrees: mostly within 35 of the front, up to 60."""
    spread, wide = torch.randn(3, generator=generator), torch.rand((), generator=generator)
    yaw = 15.0 * spread[0] if wide < 0.65 else 32.0 * spread[0]
    pitch = (9.0 * spread[1]).clamp(-25, 25)
    roll = (6.0 * spread[2]).clamp(-25, 25)
    return torch.stack([yaw.clamp(-60, 60), pitch, roll])


def draw_camera(points: Float[Tensor, "N 3"], view: float, *, generator: torch.Generator) -> Camera:
    """A camera that shows the points' bounding square, `view` times as large, in the middle.

    One time in eight it is a phone in the hand, 0.26 to 0.45 m from the face; else distances run
    from 0.36 m to a long lens, evenly in 1 / distance.
    """
    chance, share = (float(torch.rand((), generator=generator)) for _ in range(2))
    # distances count from the face's middle, nearness from the plane z = 0
    ahead = float(points[:, 2].mean())
    if chance < 0.125:
        away = 1 / (1 / 0.45 + (1 / 0.26 - 1 / 0.45) * share)
        nearness = 1 / max(away + ahead, 0.34)
    else:
        nearness = share / 0.45
    middle = (points.amax(0) + points.amin(0)) / 2
    flat = (points[:, :2] - middle[:2]) / (1 - points[:, 2:] * nearness)
    low, high = flat.amin(0), flat.amax(0)
    # perspective moves the middle; a second look is exact enough
    shift = -middle[:2] - (low + high) / 2
    scale = 2 / (view * float((high - low).max()))
    fov = math.degrees(2 * math.atan(nearness / scale))
    return Camera(torch.tensor([scale]), shift[None], torch.tensor([fov]))


def draw_lights(*, generator: torch.Generator) -> Lights:
    """Sky, key and fill: from flat studio light to a hard, coloured side light."""

    def uniform(low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def colour(strength: float) -> Tensor:
        warmth = uniform(-0.25, 0.25)
        tint = torch.tensor([1 + warmth, 1.0, 1 - warmth]) * strength
        return tint * (1 + 0.06 * torch.randn(3, generator=generator))

    hard = uniform()  # share of the key light
    total = math.exp(uniform(math.log(0.6), math.log(1.9)))
    sh = torch.zeros(9, 3)
    sky = colour(total * (1.05 - 0.75 * hard)).clamp(min=0.02)
    sh[0] = sky / SH_CONSTANTS[0]
    toward = torch.tensor([[0.0], [0.15], [0.2]])  # skies are above, cameras have light behind
    gradient = (toward + 0.4 * torch.randn(3, 1, generator=generator)) * sky
    sh[1:4] = gradient / torch.tensor(SH_CONSTANTS[1:4])[:, None]
    sh[4:] = 0.10 * torch.randn(5, 3, generator=generator) * sky
    side = 100.0 if uniform() < 0.35 else 55.0
    yaw, pitch = math.radians(uniform(-side, side)), math.radians(uniform(-20.0, 70.0))
    key = torch.tensor(
        [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
    )
    back = torch.nn.functional.normalize(
        torch.tensor([uniform(-1.0, 1.0), uniform(-0.3, 1.0), uniform(-1.0, 0.5)]), dim=0
    )
    rim = uniform(0.0, 0.8) if uniform() < 0.3 else 0.0
    colours = torch.stack([colour(total * (0.1 + 1.1 * hard)), colour(total * rim)]).clamp(min=0)
    return Lights(sh[None], torch.stack([key, back])[None], colours[None])
