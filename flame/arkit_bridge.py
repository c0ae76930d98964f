"""ARKit weights to FLAME's codes and back, for every published FLAME model.

`python -m flame.arkit_bridge MODEL_FILE` prints how well both ways go, shape by shape.

The shipped head's 52 shapes are carried onto the model's mesh (`flame.arkit_morphs`); jaw, eyelids
(where their files are there) and expression are fitted to each (`flame.arkit_fit`). Both ways are
linear in these codes, within bounds. Eyeballs turn rigidly, by the eyes' own joints. What cannot be
said in FLAME is lost: it has no tongue, no teeth, and its jaw turns but does not slide.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing
from assets.store import cache_folder, shipped_model
from assets.weights import encode_tensors, read_metadata, read_tensors
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.arkit_fit import (
    EXPRESSION_LIMIT,
    JAW_HIGH,
    JAW_LOW,
    CodeSpace,
    FitConfig,
    fit_shapes,
)
from flame.arkit_morphs import transfer_arkit, with_eyes
from flame.box_least_squares import solve_in_box
from flame.official import OfficialFlame, load_flame
from flame.params import Params, arkit_from_gaze, gaze_from_arkit
from flame.records import TensorRecord

log = logging.getLogger(__name__)

_FORMAT = "flame-arkit-1"
# of two that undo each other only one is meant
ANTAGONISTS = (
    ("jawLeft", "jawRight"),
    ("mouthLeft", "mouthRight"),
    ("eyeBlinkLeft", "eyeWideLeft"),
    ("eyeBlinkRight", "eyeWideRight"),
)
_LOOKS = [index for index, name in enumerate(ARKIT_NAMES) if name.startswith("eyeLook")]
_SPARSITY = 0.001  # share of its own strength that a weight must win to be used at all
_FAINT_MM = 0.02  # root mean square over the face: shapes below cannot be told from others


@dataclass(frozen=True, eq=False)
class OfficialParams(TensorRecord):
    """Parameters of a published FLAME model and its eyelids, the two arguments of its call.

    Eyelids (left, right, 0..1) are None where the model came without their files.
    """

    params: Params
    eyelids: Float[Tensor, "B 2"] | None = None


@dataclass(frozen=True, eq=False)
class ArkitBridge(TensorRecord):
    """The way between ARKit weights and the codes of one FLAME model, made by `arkit_bridge`."""

    morphs: Float[Tensor, "52 V 3"]  # on the template at weight 1, eyeballs turned; metres
    expression: Float[Tensor, "52 E"]  # of each shape at weight 1
    jaw: Float[Tensor, "52 3"]
    eyelids: Float[Tensor, "52 2"]
    metric: Float[Tensor, "N N"]  # N = E + 5 codes to mean square displacements, mm²
    face: Float[Tensor, " V"]  # shares of the visible face, for errors
    has_eyelids: bool
    distance_mm: float  # mean between the two registered heads over the face

    def params_from_arkit(
        self, weights: Float[Tensor, "B 52"], shape: Float[Tensor, "B S"] | None = None
    ) -> OfficialParams:
        """Codes of ARKit weights, 0..1, for heads of the given shapes (the mean by default).

        `mouthClose` is held to `jawOpen`, the opening it corrects; root and neck are at rest.
        """
        given = weights.to(self.metric).clamp(0, 1)
        opened, close = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
        given = given.clone()
        given[:, close] = torch.minimum(given[:, close], given[:, opened])
        jaw = given @ self.jaw
        still = torch.zeros_like(jaw).to(weights)
        params = Params(
            shape=weights.new_zeros(len(weights), 1) if shape is None else shape,
            expression=(given @ self.expression)
            .clamp(-EXPRESSION_LIMIT, EXPRESSION_LIMIT)
            .to(weights),
            root=still,
            neck=still,
            jaw=jaw.clamp(jaw.new_tensor(JAW_LOW), jaw.new_tensor(JAW_HIGH)).to(weights),
            eyes=gaze_from_arkit(given).to(weights),
        )
        lids = (given @ self.eyelids).clamp(0, 1).to(weights) if self.has_eyelids else None
        return OfficialParams(params, lids)

    @torch.no_grad()
    def arkit_from_params(self, codes: OfficialParams) -> Float[Tensor, "B 52"]:
        """The few weights, 0..1, whose face is nearest to that of the codes.

        Looks follow the eyes; of antagonists (left and right, blink and wide) one is used;
        `mouthClose` is at most `jawOpen`; the tongue, which FLAME lacks, stays in.
        """
        wanted = self._flat(codes)
        batch = len(wanted)
        weights = arkit_from_gaze(codes.params.eyes.to(wanted), wanted.new_zeros(batch, 52)).clamp(
            0, 1
        )
        shapes = self._shape_codes()
        wanted = wanted - weights @ shapes
        quadratic = shapes @ self.metric @ shapes.T
        strength = quadratic.diagonal()
        linear = wanted @ self.metric @ shapes.T
        high = (strength > _FAINT_MM**2).to(wanted).expand(batch, 52).clone()
        high[:, [*_LOOKS, ARKIT_INDEX["tongueOut"]]] = 0
        low = torch.zeros_like(high)
        # a trace keeps shapes apart that the model can hardly tell apart
        quadratic = quadratic + torch.diag(1e-6 * strength + 1e-8)
        found = solve_in_box(quadratic, linear - _SPARSITY * strength, low, high)
        for one, other in ANTAGONISTS:
            pair = torch.stack([found[:, ARKIT_INDEX[one]], found[:, ARKIT_INDEX[other]]])
            high[:, ARKIT_INDEX[one]] *= pair[0] >= pair[1]
            high[:, ARKIT_INDEX[other]] *= pair[1] > pair[0]
        # weights that are used at all are then as large as fits best
        high = torch.where(found > 1e-4, high, 0.0)
        found = solve_in_box(quadratic, linear, low, high, start=found)
        opened, close = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
        over = found[:, close] > found[:, opened]
        if bool(over.any()):
            found = self._closed(quadratic, linear, high, found, over)
        return (weights + found).clamp(0, 1).to(codes.params.expression)

    def _closed(
        self, quadratic: Tensor, linear: Tensor, high: Tensor, found: Tensor, over: Tensor
    ) -> Tensor:
        """Weights with `mouthClose` equal to `jawOpen` where it would be more."""
        opened, close = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
        join = torch.eye(52).to(quadratic)
        join[opened, close] = 1  # one unknown for both
        high = high.clone()
        high[:, opened] = 1
        high[:, close] = 0
        tied = solve_in_box(
            join @ quadratic @ join.T + 1e-9 * torch.eye(52).to(quadratic),
            linear @ join.T,
            torch.zeros_like(high),
            high,
        )
        return torch.where(over[:, None], tied @ join, found)

    def _shape_codes(self) -> Float[Tensor, "52 N"]:
        return torch.cat([self.expression, self.jaw, self.eyelids], dim=1)

    def _flat(self, codes: OfficialParams) -> Float[Tensor, "B N"]:
        given = codes.params.expression
        n_expression = self.expression.shape[1]
        if given.shape[1] > n_expression:
            raise ValueError(
                f"expression has {given.shape[1]} coefficients, this bridge was made for "
                f"{n_expression}; make it with FitConfig(n_expression={given.shape[1]})"
            )
        expression = torch.nn.functional.pad(given, (0, n_expression - given.shape[1]))
        lids = given.new_zeros(len(given), 2) if codes.eyelids is None else codes.eyelids
        return torch.cat([expression, codes.params.jaw, lids], dim=1).to(self.metric)


def arkit_bridge(
    flame: OfficialFlame, config: FitConfig | None = None, *, cached: bool = True
) -> ArkitBridge:
    """The bridge of a model, made in some seconds and then kept in the user's cache.

    Raises AssetError where the model came without landmarks.
    """
    config = config or FitConfig()
    key = _key(flame, config)
    path = cache_folder() / "flame" / f"arkit-{key[:32]}.safetensors"
    found = _read(path, key) if cached else None
    if found is not None:
        return found
    bridge = _build(flame, config)
    if cached:
        try:
            _write(bridge, path, key)
        except OSError as error:
            log.warning("the bridge to ARKit cannot be kept in %s: %s", path.parent, error)
    return bridge


@torch.no_grad()
def arkit_morphs(
    flame: OfficialFlame,
    shape: Float[Tensor, " S"] | None = None,
    bridge: ArkitBridge | None = None,
) -> Float[Tensor, "52 V 3"]:
    """Morph targets for export: `flame.head(shape, arkit_morphs(flame, shape), ARKIT_NAMES)`.

    Skin moves as on the template; eyeballs turn about the joints of the given identity.
    """
    bridge = arkit_bridge(flame) if bridge is None else bridge
    morphs = bridge.morphs.to(flame.template)
    if shape is None:
        return morphs
    zeros = Params.zeros(1, 1, 1)._map(lambda tensor: tensor.to(flame.template))
    given = Params(
        shape=shape[None].to(flame.template),
        expression=zeros.expression,
        root=zeros.root,
        neck=zeros.neck,
        jaw=zeros.jaw,
        eyes=zeros.eyes,
    )
    posed = flame(given)
    return with_eyes(morphs, flame, posed.verts[0], posed.joints[0])


@torch.no_grad()
def _build(flame: OfficialFlame, config: FitConfig) -> ArkitBridge:
    exact = copy.deepcopy(flame).cpu().double()
    transferred = transfer_arkit(exact)
    morphs = torch.from_numpy(transferred.morphs)
    space = CodeSpace(exact, torch.from_numpy(transferred.focus), config)
    codes, metric = fit_shapes(space, morphs)
    expression, jaw, lids = space.split(codes)
    joints = exact.joint_regressor @ exact.template
    return ArkitBridge(
        morphs=with_eyes(morphs, exact, exact.template, joints).float(),
        expression=expression.contiguous(),
        jaw=jaw.contiguous(),
        eyelids=lids.contiguous(),
        metric=metric,
        face=torch.from_numpy(transferred.face),
        has_eyelids=space.use_lids,
        distance_mm=transferred.distance_mm,
    )


def _key(flame: OfficialFlame, config: FitConfig) -> str:
    """A checksum of all that the bridge follows from."""
    ours = sorted(shipped_model("head").files.values())
    total = hashlib.sha256(f"{_FORMAT} {config} {ours}".encode())
    named = {**dict(flame.named_buffers())}
    for name in ("fixed", "static"):
        embedding = getattr(flame.embeddings, name)
        if embedding is not None:
            named |= {f"{name}.faces": embedding.faces, f"{name}.bary": embedding.bary}
    for name, tensor in sorted((named | {f"mask.{k}": v for k, v in flame.masks.items()}).items()):
        if name != "shapedirs":  # the bridge is that of the template
            total.update(f"{name} {tuple(tensor.shape)} ".encode())
            total.update(tensor.detach().cpu().double().numpy().tobytes())
    return total.hexdigest()


def _tensors(bridge: ArkitBridge) -> dict[str, Tensor]:
    return {
        field.name: value
        for field in fields(ArkitBridge)
        if isinstance(value := getattr(bridge, field.name), Tensor)
    }


def _write(bridge: ArkitBridge, path: Path, key: str) -> None:
    metadata = {
        "format": _FORMAT,
        "key": key,
        "has_eyelids": str(int(bridge.has_eyelids)),
        "distance_mm": repr(bridge.distance_mm),
    }
    with replacing(path) as written:
        written.write_bytes(encode_tensors(_tensors(bridge), metadata))


def _read(path: Path, key: str) -> ArkitBridge | None:
    if not path.is_file():
        return None
    try:
        metadata = read_metadata(path)
        if metadata.get("format") != _FORMAT or metadata.get("key") != key:
            return None
        tensors = read_tensors(path)
        return ArkitBridge(
            **{name: tensor.clone() for name, tensor in tensors.items()},
            has_eyelids=metadata["has_eyelids"] == "1",
            distance_mm=float(metadata["distance_mm"]),
        )
    except (AssetError, KeyError, TypeError, ValueError) as error:
        log.warning("making the bridge to ARKit again: %s", error)
        return None


def main() -> None:
    """Print the round trips of a model file."""
    from flame.arkit_report import report

    parser = argparse.ArgumentParser(prog="python -m flame.arkit_bridge", description=__doc__)
    parser.add_argument("model", type=Path, help="a published FLAME file, companions beside it")
    parser.add_argument("--expressions", type=int, help="components to use, such as DECA's 50")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        # in the models without a jaw, its pose is of no use even where a trace of it is left
        use_jaw = False if "no_jaw" in given.model.stem else None
        config = FitConfig(n_expression=given.expressions, use_jaw=use_jaw)
        flame = load_flame(given.model, dtype=torch.float64)
        lines = report(flame, arkit_bridge(flame, config), seed=given.seed)
    except (AssetError, ValueError) as error:
        sys.stderr.write(f"flame.arkit_bridge: {error}\n")
        sys.exit(2)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
