"""How well a face detector does on composites that it was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deca.detect import shipped_faces
from deca.face_net import FaceNet, folded
from deca.landmarks import load_landmark_net
from deca.train_faces_data import develop, draw_bodies, warp
from deca.train_faces_people import RenderedPeople
from deca.train_faces_scene import Scenery

_SIDE = 640  # px of a scene
_OVERLAP = 0.4  # what counts as found
_EMPTY = 200  # pictures without people
_BANDS = {
    "yaw": (0.0, 30.0, 60.0, 92.0),
    "roll": (0.0, 20.0, 40.0, 62.0),
    "side": (24.0, 40.0, 80.0, 300.0),
}


@dataclass(frozen=True, eq=False)
class _Person:
    box: Float[Tensor, " 4"]
    yaw: float  # degrees, 0..180
    roll: float  # degrees, 0..
    side: float


def held_out(
    net: FaceNet, people: RenderedPeople, *, scenes: int = 80, seed: int = 90_003
) -> dict[str, float]:
    """Share of faces found by yaw, roll and size; false alarms; pictures whose count is right.

    Scenes of 640 px hold none to four people who do not cover each other, backs of heads among
    them. The scenery is painted anew and holds no photographs.
    """
    generator = torch.Generator().manual_seed(seed)
    scenery = Scenery(None, np.random.default_rng(seed))
    quick, landmarks = folded(net), load_landmark_net()

    def found_in(image: Tensor) -> Float[Tensor, "N 4"]:
        boxes = [face.box for face in shipped_faces(image, quick, landmarks)]
        return torch.stack([*boxes, torch.zeros(4)])[:-1]

    hits: dict[str, list[bool]] = {}
    alarms, right, found_faces, empty_alarms = 0, 0, 0, 0
    for _ in range(scenes):
        image, persons = _scene(people, scenery, generator)
        boxes = found_in(image)
        wanted = [person for person in persons if person.yaw < _BANDS["yaw"][-1]]
        taken: set[int] = set()
        for person in wanted:
            shares = _overlaps(person.box, boxes)
            best = int(shares.argmax()) if len(shares) else -1
            hit = best >= 0 and float(shares[best]) > _OVERLAP
            taken |= {best} if hit else set()
            for kind, edges in _BANDS.items():
                value = getattr(person, kind)
                band = [f"{a:.0f}-{b:.0f}" for a, b in pairwise(edges) if a <= value < b]
                for name in band:
                    hits.setdefault(f"found, {kind} {name}", []).append(hit)
            hits.setdefault("found", []).append(hit)
        # a head that is just turned away may be called a face or not
        open_ended = sum(_BANDS["yaw"][-1] <= person.yaw < 122 for person in persons)
        extra = max(0, len(boxes) - len(taken) - open_ended)
        alarms += extra
        found_faces += len(boxes)
        right += extra == 0 and len(taken) == len(wanted)
    for _ in range(_EMPTY):
        image = torch.from_numpy(scenery.draw(_SIDE)).permute(2, 0, 1)[None].float() / 255
        empty_alarms += len(found_in(image))
    figures = {name: float(np.mean(values)) for name, values in sorted(hits.items())}
    figures["precision"] = 1 - alarms / max(found_faces, 1)
    figures["scenes with every face and no other"] = right / scenes
    figures[f"false alarms on {_EMPTY} pictures without people"] = float(empty_alarms)
    return {name: round(value, 3) for name, value in figures.items()}


def _scene(
    people: RenderedPeople, scenery: Scenery, generator: torch.Generator
) -> tuple[Float[Tensor, "1 3 H W"], list[_Person]]:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    image = torch.from_numpy(scenery.draw(_SIDE)).permute(2, 0, 1)[None].float() / 255
    persons: list[_Person] = []
    for _ in range(int(torch.randint(5, (), generator=generator))):
        index = torch.randint(len(people), (1,), generator=generator)
        points, side = people.points[index][0], math.exp(uniform(math.log(24), math.log(230)))
        roll = uniform(-60, 60) if uniform(0, 1) < 0.6 else uniform(-15, 15)
        middle = torch.tensor([uniform(0.6 * side, _SIDE - 0.6 * side) for _ in range(2)])
        cosine, sine = math.cos(math.radians(roll)), math.sin(math.radians(roll))
        turn = torch.tensor([[cosine, -sine], [sine, cosine]])
        turned = points @ turn.T
        scale = side / float((turned.amax(0) - turned.amin(0)).max())
        turned = turned * scale
        center = (turned.amin(0) + turned.amax(0)) / 2
        # nobody stands before another's face
        reach = [float((middle - (p.box[:2] + p.box[2:]) / 2).norm()) for p in persons]
        room = [2.2 * max(side, p.side) for p in persons]
        if any(a < b for a, b in zip(reach, room, strict=True)):
            continue
        bodies = draw_bodies(1, generator)
        bodies[:, 0] *= 0.8
        inverse = (turn * scale).inverse()[None]
        cover, color = warp(people.pictures(index), inverse, (middle - center)[None], bodies, _SIDE)
        for person in persons:
            low, high = person.box[:2].long().clamp(min=0), person.box[2:].long()
            cover[..., low[1] : high[1], low[0] : high[0]] = 0
        image = image * (1 - cover) + color * cover
        box = torch.cat([middle - side / 2, middle + side / 2])
        yaw = float(people.yaw_deg[index].abs())
        persons.append(_Person(box, yaw, abs(roll), side))
    return develop(image, generator=generator), persons


def _overlaps(box: Float[Tensor, " 4"], others: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return common / (areas - common).clamp(min=1e-9)
