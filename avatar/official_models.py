"""The published encoders on FLAME 2020, alone and mixed, from files that the user has placed."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from assets.store import official
from avatar.face_models import FaceModel, FaceReading, at_rest, camera_codes, stacked, timed
from deca.codes import Crop
from deca.crop import crop_square
from deca.encode import STEEP_RAD, face_points
from deca.landmarks import crop_of, load_landmark_net
from deca.official import load_encoder
from deca.official_codes import CROP_OF, GIVES, CodeParts, Mix, OfficialCodes, mixed, transfer
from deca.official_crop import SIDES, official_crop, whole_picture
from deca.official_encoder import OfficialEncoder
from flame.official import load_flame
from flame.params import Params
from flame.rotation import matrix_to_axis_angle

FILES = {
    "deca": "deca/deca_model.tar",
    "emoca": "emoca/emoca.ckpt",
    "mica": "mica/mica.tar",
    "smirk": "smirk/SMIRK_em1.pt",
}
GEOMETRY = "flame/generic_model.pkl"  # FLAME 2020: all published encoders were trained on it
EMBEDDING = "flame/landmark_embedding.npy"
EYELIDS = ("flame/l_eyelid.npy", "flame/r_eyelid.npy")
_ROOM, _MOST = 3.0, 1024  # side of a steep face's part of the picture over the face's; px, most
_WITHOUT_REFINING = "--refine works with the shipped model only; leave it out"


def read_mix(name: str) -> Mix | None:
    """The mix of a model's name; None for "mica" alone, which has no camera.

    Names without groups share the work by what each is best at: MICA gives the shape, EMOCA or
    SMIRK expression and jaw (SMIRK eyelids too), DECA the rest; else see Mix.read.
    """
    names = [part.strip().lower() for part in name.split("+")]
    if names == ["mica"]:
        return None
    if len(names) == 1 or not set(names) <= GIVES.keys():
        return Mix.read(name)
    if len(set(names)) < len(names):
        raise ValueError(f"{name!r} names a model twice; name each once")
    movers = [one for one in names if one in ("emoca", "smirk")] or [
        one for one in names if one == "deca"
    ]
    base: str | None = next((one for one in ("deca", "emoca", "smirk") if one in names), None)
    if base is None or not movers:
        raise ValueError(f"{name!r} has no camera; add deca, emoca or smirk")
    chosen: dict[str, str | None] = {
        group: base if group in GIVES[base] else None
        for group in ("shape", "root", "camera", "albedo", "light", "detail")
    }
    chosen |= {"expression": movers[0], "jaw": movers[0]}
    chosen["eyelids"] = "smirk" if movers[0] == "smirk" else None
    if "mica" in names:
        chosen["shape"] = "mica"
    return Mix(**chosen)


class OfficialModel(FaceModel):
    """FLAME 2020 under the codes of published encoders."""

    def __init__(self, name: str, mix: Mix | None) -> None:
        self.name, self.mix = name, mix
        wanted = ("mica",) if mix is None else mix.encoders()
        paths = {one: official(FILES[one]) for one in wanted}
        geometry = official(GEOMETRY)
        official(EMBEDDING)
        self._lids = mix is not None and mix.eyelids is not None
        for lid in EYELIDS if self._lids else ():
            official(lid)
        self.encoders: dict[str, OfficialEncoder] = {
            one: load_encoder(path) for one, path in paths.items()
        }
        self.official_flame = load_flame(geometry)
        self.flame = self.official_flame
        self.points = load_landmark_net()

    def read(
        self,
        image: Float[Tensor, "1 3 H W"],
        box: Float[Tensor, " 4"] | None = None,
        *,
        refined: bool = False,
        cropped: bool = False,
    ) -> FaceReading:
        """The face in `box`; see FaceModel.read."""
        if refined:
            raise ValueError(_WITHOUT_REFINING)
        seconds: dict[str, float] = {}
        with timed(seconds, "find"):
            chosen, warnings = self._chosen(image, box, cropped)
            found = face_points(image, chosen, self.points, passes=4, thorough=True)
        if not found.is_face():
            warnings += ("the network is not sure that this is a face; look at the result",)
        points = found.points68[0]
        with timed(seconds, "encode"):
            codes, crop = self._upright(image, points, cropped)
        with timed(seconds, "mesh"):
            return self._reading(codes, crop, points, seconds, warnings)

    def wearing(
        self, identity: FaceReading, expression: FaceReading, jaw_gain: float = 1.0
    ) -> FaceReading:
        """A person with another's expression, jaw and eyelids; head pose, camera and light stay.

        Both are readings of this model. The jaw's turn is multiplied by `jaw_gain`.
        """
        source = _codes_of(expression)
        source = dataclasses.replace(source, jaw=jaw_gain * source.jaw)
        codes = transfer(_codes_of(identity), source)
        found = self._reading(codes, identity.crop, identity.landmarks2d, {}, identity.warnings)
        return dataclasses.replace(found, seen=identity)

    def _upright(
        self, image: Tensor, points: Float[Tensor, "68 2"], cropped: bool
    ) -> tuple[OfficialCodes, Crop]:
        """Codes and their crop; of a steep face, of the picture round it, turned upright.

        The published crops have their sides along the picture's, and their encoders know no faces
        that lie on a side.
        """
        center, side, roll_rad = crop_of(points)
        if abs(roll_rad) < STEEP_RAD:
            return self._encoded(image, points, cropped)
        room = _ROOM * side
        part = crop_square(image, center, room, min(round(room), _MOST), roll_rad)
        codes, crop = self._encoded(part.image, part.points(points), cropped=False)
        return codes, Crop(crop.image, crop.matrix @ part.matrix)

    @torch.no_grad()
    def _encoded(
        self, image: Tensor, points: Float[Tensor, "68 2"], cropped: bool
    ) -> tuple[OfficialCodes, Crop]:
        crops: dict[str, Crop] = {}
        parts: dict[str, CodeParts] = {}
        for name, encoder in self.encoders.items():
            kind = CROP_OF[name]
            if kind not in crops:
                # ArcFace wants eyes, nose and mouth in their places whatever the picture is
                whole = cropped and kind != "arcface"
                crops[kind] = (
                    whole_picture(image, SIDES[kind])
                    if whole
                    else official_crop(image, points, kind)
                )
            parts[name] = encoder.encode(crops[kind].image)
        if self.mix is not None:
            assert self.mix.camera is not None
            return mixed(self.mix, parts), crops[CROP_OF[self.mix.camera]]
        shape = parts["mica"].shape
        assert shape is not None
        crop = official_crop(image, points, "deca")
        return self._placed(shape, crop.points(points), crop.image.shape[-1]), crop

    def _placed(
        self, shape: Float[Tensor, "1 S"], seen: Float[Tensor, "68 2"], side: int
    ) -> OfficialCodes:
        """Codes of a shape alone: pose and camera by scaled orthography on the inner 51 points.

        DeMenthon and Davis 1995: two rows of an affine map by least squares, made orthonormal.
        """
        rest = Params.zeros(1, shape.shape[1], 50)
        posed = self.official_flame(Params(shape, rest.expression, rest.root, rest.neck, rest.jaw,
                                           rest.eyes))  # fmt: skip
        points = self.official_flame.landmarks51(posed.verts)[0].double()
        goal = seen[17:].double() / (side / 2) - 1
        goal = goal * goal.new_tensor([1.0, -1.0])
        middle, aim = points.mean(0), goal.mean(0)
        affine = torch.linalg.lstsq(points - middle, goal - aim).solution.T  # [2, 3]
        u, strengths, vt = torch.linalg.svd(affine, full_matrices=False)
        rows = u @ vt
        rotation = torch.cat([rows, torch.linalg.cross(rows[0], rows[1])[None]])
        scale = strengths.mean()
        # FLAME turns about its root joint
        joint = posed.joints[0, 0].double()
        moved = rotation @ (middle - joint) + joint
        shift = aim / scale - moved[:2]
        empty = mixed(Mix(), {"deca": _zeros()})
        return OfficialCodes(
            shape=shape,
            expression=empty.expression,
            jaw=empty.jaw,
            root=matrix_to_axis_angle(rotation[None]).float(),
            camera=torch.cat([scale[None], shift])[None].float(),
            albedo=empty.albedo,
            light=empty.light,
            detail=empty.detail,
            eyelids=empty.eyelids,
        )

    @torch.no_grad()
    def _reading(
        self,
        codes: OfficialCodes,
        crop: Crop,
        points: Float[Tensor, "68 2"],
        seconds: dict[str, float],
        warnings: tuple[str, ...],
    ) -> FaceReading:
        params, flame, camera = codes.to_params(), self.official_flame, codes.crop_camera()
        still = torch.zeros_like(params.root)
        ahead = Params(params.shape, params.expression, still, params.neck, params.jaw, params.eyes)
        three = stacked([ahead, at_rest(params), params])
        lids = None
        if self._lids:
            lids = torch.cat([codes.eyelids, torch.zeros_like(codes.eyelids), codes.eyelids])
        verts = flame(three, lids).verts
        named = {name: getattr(params, name)[0] for name in params.__dataclass_fields__}
        named |= {
            "albedo": codes.albedo[0],
            "light": codes.light[0],
            "detail": codes.detail[0],
            "eyelids": codes.eyelids[0],
            **camera_codes(camera, crop, params),
        }
        return FaceReading(
            vertices=verts[0],
            neutral_vertices=verts[1],
            faces=flame.faces,
            landmarks=flame.landmarks68(verts[:1])[0],
            landmarks2d=points,
            codes=named,
            params=params,
            posed=verts[2:],
            camera=camera,
            crop=crop,
            seconds=seconds,
            warnings=warnings,
            albedo=codes.albedo,
            light=codes.light,
        )


def _codes_of(reading: FaceReading) -> OfficialCodes:
    """The codes that a reading of OfficialModel was made from."""
    named, camera = reading.codes, reading.camera
    assert reading.albedo is not None and reading.light is not None
    return OfficialCodes(
        shape=reading.params.shape,
        expression=reading.params.expression,
        jaw=reading.params.jaw,
        root=reading.params.root,
        camera=torch.cat([camera.scale[:, None], camera.shift], dim=1),
        albedo=reading.albedo,
        light=reading.light,
        detail=named["detail"][None],
        eyelids=named["eyelids"][None],
    )


def _zeros() -> CodeParts:
    """An answer of DECA's that is neutral in every group, its light an even white."""
    from flame.light import sh_constant

    widths = {"shape": 100, "expression": 50, "jaw": 3, "root": 3, "camera": 3, "albedo": 50}
    parts = {name: torch.zeros(1, width) for name, width in widths.items()}
    return CodeParts(**parts, light=sh_constant(torch.ones(1, 3)), detail=torch.zeros(1, 128))
