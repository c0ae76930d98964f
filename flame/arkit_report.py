"""How well ARKit weights and FLAME's codes go into each other, as a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.arkit_bridge import ArkitBridge, OfficialParams
from flame.official import OfficialFlame
from flame.params import Params

_MIXES = 200
_SHARE = 0.15  # of the shapes that are in use in a random face


@dataclass(frozen=True, eq=False)
class RoundTrips:
    """Errors of M faces; over the visible face that shapes move, in millimetres."""

    size_mm: Float[Tensor, "M 2"]  # mean and greatest displacement of the face itself
    fit_mm: Float[Tensor, "M 2"]  # FLAME under the codes against the transferred shapes
    back: Float[Tensor, "M 52"]  # weights -> codes -> weights, minus the weights given
    return_mm: Float[Tensor, "M 2"]  # codes -> weights -> codes, between the two FLAME faces


@torch.no_grad()
def round_trips(
    flame: OfficialFlame, bridge: ArkitBridge, weights: Float[Tensor, "M 52"]
) -> RoundTrips:
    """Both ways for faces of given weights."""
    codes = bridge.params_from_arkit(weights)
    face = _verts(flame, codes)
    back = bridge.arkit_from_params(codes)
    again = _verts(flame, bridge.params_from_arkit(back))
    rest = flame.template
    wanted = torch.einsum("mw,wvk->mvk", weights.to(bridge.morphs), bridge.morphs).to(rest)
    share = bridge.face.to(rest)
    return RoundTrips(
        size_mm=_mean_and_worst(wanted, share),
        fit_mm=_mean_and_worst(face - rest - wanted, share),
        back=back - weights,
        return_mm=_mean_and_worst(again - face, share),
    )


def random_weights(count: int, generator: torch.Generator) -> Float[Tensor, "M 52"]:
    """Weights of random faces: a few shapes each; no antagonists, no tongue, `mouthClose` held."""
    from flame.arkit_bridge import ANTAGONISTS

    drawn = torch.rand(count, 52, generator=generator, dtype=torch.float64)
    used = torch.rand(count, 52, generator=generator, dtype=torch.float64) < _SHARE
    weights = drawn * used
    looks = [
        (f"eyeLook{a}{side}", f"eyeLook{b}{side}")
        for side in ("Left", "Right")
        for a, b in (("Up", "Down"), ("In", "Out"))
    ]
    for one, other in (*ANTAGONISTS, *looks):
        weights[:, ARKIT_INDEX[other]] *= weights[:, ARKIT_INDEX[one]] == 0
    weights[:, ARKIT_INDEX["tongueOut"]] = 0
    close = ARKIT_INDEX["mouthClose"]
    weights[:, close] = torch.minimum(weights[:, close], weights[:, ARKIT_INDEX["jawOpen"]])
    return weights


@torch.no_grad()
def random_codes(bridge: ArkitBridge, count: int, generator: torch.Generator) -> OfficialParams:
    """Codes as encoders give them: expression of one standard deviation, the jaw open a little."""
    n_expression = bridge.expression.shape[1]
    params = Params.zeros(count, 1, n_expression)._map(lambda tensor: tensor.double())
    params.expression.normal_(generator=generator)
    params.jaw[:, 0].uniform_(0, 0.3, generator=generator)
    return OfficialParams(params)


def report(flame: OfficialFlame, bridge: ArkitBridge, *, seed: int = 0) -> list[str]:
    """The lines of the table; the model should be in double precision."""
    single = torch.eye(52, dtype=torch.float64)
    close, opened = ARKIT_INDEX["mouthClose"], ARKIT_INDEX["jawOpen"]
    single[close, opened] = 1  # it corrects an open jaw
    shapes = round_trips(flame, bridge, single)
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(_MIXES, generator)
    mixes = round_trips(flame, bridge, weights)
    codes = random_codes(bridge, _MIXES, generator)
    face = _verts(flame, codes)
    again = _verts(flame, bridge.params_from_arkit(bridge.arkit_from_params(codes)))
    share = bridge.face.to(face)
    own = _mean_and_worst(face - flame.template, share)
    lost = _mean_and_worst(again - face, share)
    lines = [
        f"{bridge.expression.shape[1]} expressions, "
        f"{'a jaw' if bool(bridge.jaw.abs().sum() > 0) else 'no jaw'}, "
        f"{'eyelids' if bridge.has_eyelids else 'no eyelids'}; the two heads lie "
        f"{bridge.distance_mm:.2f} mm apart after registration",
        "mm over the face, mean / worst. fit: FLAME under the codes against the transferred shape;",
        "weight: what comes back of 1; other: the greatest of the rest;",
        "return: codes -> weights -> codes",
        f"{'':20}{'size':>14}{'fit':>14}{'weight':>8}{'other':>7}{'return':>14}",
    ]
    for index, name in enumerate(ARKIT_NAMES):
        others = shapes.back[index].abs().clone()
        others[index] = 0
        lines.append(
            f"{name:20}{_pair(shapes.size_mm[index])}{_pair(shapes.fit_mm[index])}"
            f"{1 + float(shapes.back[index, index]):8.2f}{float(others.max()):7.2f}"
            f"{_pair(shapes.return_mm[index])}"
        )
    back = mixes.back.abs()
    lines += [
        f"{_MIXES} random faces: size{_pair(mixes.size_mm.mean(0))}, fit"
        f"{_pair(mixes.fit_mm.mean(0))}, return{_pair(mixes.return_mm.mean(0))}",
        f"  weights -> codes -> weights: mean error {float(back.mean()):.4f}, "
        f"95 % below {float(back.flatten().quantile(0.95)):.4f}, worst {float(back.max()):.3f}",
        f"{_MIXES} random codes: size{_pair(own.mean(0))}, return{_pair(lost.mean(0))} "
        "(what ARKit cannot say is lost)",
    ]
    return lines


def _verts(flame: OfficialFlame, codes: OfficialParams) -> Float[Tensor, "B V 3"]:
    params = codes.params._map(lambda tensor: tensor.to(flame.template))
    lids = None if codes.eyelids is None else codes.eyelids.to(flame.template)
    verts: Tensor = flame(params, lids).verts
    return verts


def _mean_and_worst(moves: Float[Tensor, "M V 3"], share: Float[Tensor, " V"]) -> Tensor:
    length = 1e3 * moves.norm(dim=2)
    worst = torch.where(share > 0, length, 0.0).amax(1)
    return torch.stack([length @ share, worst], dim=1)


def _pair(values: Tensor) -> str:
    return f"{float(values[0]):7.2f} /{float(values[1]):5.2f}"
