"""The shipped detail network: a face unrolled on its texture, to relief.

It looks at the middle half of the texture, where the face is. Its inputs are what survives when
broad light and colour are taken out, and by how much a slope would change the light there: a
crease is what darkens as its slopes say, a freckle or a brow is not.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_shuffle, pixel_unshuffle

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import install_weights, read_metadata, read_tensors, write_tensors
from flame.light import sh_basis
from flame.model import Flame
from flame.srgb import srgb_to_linear
from flame.wrinkle_lines import GROUPS, ORIGIN, SHAPE, STEP, directions, wrinkle_lines
from flame.wrinkle_map import WrinkleMap, chart_marks

SHIPPED_DETAIL = "detail/detail.safetensors"
SIDE = 256  # texels of the window
TEXTURE = 2 * SIDE  # of the texture that it is the middle of
UNIT = 1e-4  # metres that an output of 1 stands for
N_PRIOR = 5
N_INPUT = 3 + 1 + 2 + 1 + N_PRIOR
N_SHARP = 4  # inputs that are looked at texel by texel; the rest is smooth
_FORMAT = "wrinkle network 1"
_WIDTHS = (16, 32, 48, 64)


class _Block(nn.Sequential):
    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, depth: int = 1) -> None:
        layers: list[nn.Module] = []
        for step in range(depth):
            taken, pace = (n_in, stride) if step == 0 else (n_out, 1)
            layers += [
                nn.Conv2d(taken, n_out, 3, pace, 1, bias=False),
                nn.BatchNorm2d(n_out),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class DetailNet(nn.Module):
    """Inputs of `detail_inputs` to relief and its uncertainty; fully convolutional."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(_WIDTHS))
        self.down = nn.ModuleList([_Block(4 * N_SHARP + N_INPUT - N_SHARP, _WIDTHS[0])])
        self.down.extend(_Block(n_in, n_out, stride=2, depth=2) for n_in, n_out in pairs)
        self.narrow = nn.ModuleList(nn.Conv2d(rough, fine, 1) for fine, rough in reversed(pairs))
        self.up = nn.ModuleList(_Block(2 * fine, fine) for fine, _ in reversed(pairs))
        self.relief = nn.Conv2d(_WIDTHS[0], 8, 3, 1, 1)

    def forward(
        self, inputs: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B 1 H W"], Float[Tensor, "B 1 H W"]]:
        """Height, and the log of its mean absolute error; both in 0.1 mm. Sides: times of 16."""
        sharp, smooth = inputs[:, :N_SHARP], inputs[:, N_SHARP:]
        features = torch.cat([pixel_unshuffle(sharp, 2), avg_pool2d(smooth, 2)], dim=1)
        kept = []
        for block in self.down:
            features = block(features)
            kept.append(features)
        kept.pop()
        for narrow, block in zip(self.narrow, self.up, strict=True):
            larger = interpolate(narrow(features), scale_factor=2.0, mode="nearest")
            features = block(torch.cat([kept.pop(), larger], dim=1))
        maps = pixel_shuffle(self.relief(features), 2)
        return maps[:, :1], maps[:, 1:].clamp(-5, 2)


def detail_inputs(
    colour: Float[Tensor, "B 3 K K"],
    visible: Float[Tensor, "B 1 K K"],
    sway: Float[Tensor, "B 2 K K"],
    coarseness: Float[Tensor, "B 1 K K"],
    prior: Float[Tensor, "P K K"],
) -> Float[Tensor, "B C K K"]:
    """What the network sees of a window.

    `colour` is sRGB as unrolled, `sway` the change of log light per unit of slope along u and v,
    `coarseness` log2 of texels per picture pixel, at least 0, `prior` that of `window_prior`.
    """
    light = srgb_to_linear(colour.clamp(0, 1)).clamp(min=4e-3).log()
    residue = (light - broad(light, visible)) * visible
    red, green, blue = residue.unbind(1)
    level = (0.3 * red + 0.6 * green + 0.1 * blue) * 5
    tinted = torch.stack([level, (red - green) * 8, (green - blue) * 8], dim=1).clamp(-3, 3)
    shared = prior.expand(len(colour), -1, -1, -1)
    return torch.cat([tinted, visible, sway.clamp(-3, 3), coarseness, shared], dim=1)


def log_light_sway(
    normal: Float[Tensor, "B 3 K K"],
    dual_u: Float[Tensor, "B 3 K K"],
    dual_v: Float[Tensor, "B 3 K K"],
    lengths: Float[Tensor, "B 2 K K"],
    light: Float[Tensor, "B 9 3"],
) -> Float[Tensor, "B 2 K K"]:
    """Change of the log of light per unit of slope along u and v, of light in harmonics.

    `lengths` are metres per UV square along both axes; a slope is rise per length. All as smooth
    as the mesh, so half the texels do.
    """
    gray = light.mean(-1)
    normal, dual_u, dual_v, lengths = (
        avg_pool2d(maps, 2) for maps in (normal, dual_u, dual_v, lengths)
    )

    def level(directions: Tensor) -> Tensor:
        squared = directions.square().sum(1, keepdim=True).clamp(min=1e-12)
        basis = sh_basis((directions * squared.rsqrt()).movedim(1, -1))
        return torch.einsum("bhwk,bk->bhw", basis, gray).clamp(min=0.1).log()

    here, step = level(normal), 0.1
    along = [
        (level(normal - step * dual * lengths[:, axis : axis + 1]) - here) / step
        for axis, dual in enumerate((dual_u, dual_v))
    ]
    return interpolate(torch.stack(along, dim=1), scale_factor=2.0, mode="nearest")


def broad(values: Float[Tensor, "B C K K"], weight: Float[Tensor, "B 1 K K"]) -> Tensor:
    """Mean over some 8 mm round each texel, of those that have weight."""
    small = avg_pool2d(torch.cat([values * weight, weight], dim=1), 4)
    for _ in range(3):
        small = avg_pool2d(small, 5, 1, 2, count_include_pad=False)
    ratio = small[:, :-1] / small[:, -1:].clamp(min=1e-3)
    return interpolate(ratio, scale_factor=4.0, mode="bilinear", align_corners=False)


def window(maps: Float[Tensor, "*C K L"]) -> Float[Tensor, "*C H W"]:
    """The middle half of texture maps, where the face is."""
    edge = maps.shape[-1] // 4
    return maps[..., edge:-edge, edge:-edge]


def window_prior(flame: Flame, skin: WrinkleMap) -> Float[Tensor, "P K K"]:
    """Places of a window's texels, where skin creases and across which direction."""
    if skin.side != TEXTURE:
        raise ValueError(
            f"the wrinkle map has {skin.side} texels a side, the network wants {TEXTURE}; "
            f"pass wrinkle_map(flame, {TEXTURE})"
        )
    lines = wrinkle_lines(chart_marks(flame), np.random.default_rng(0), spread=0.0)
    share, across = directions(lines)
    angle = 2 * np.arctan2(across[:, 1], across[:, 0])
    chart = np.stack([share.max(0), (share * np.cos(angle)).sum(0), (share * np.sin(angle)).sum(0)])
    laid = skin.laid(torch.from_numpy(chart.clip(-1, 1).astype(np.float32)))
    extent = torch.tensor([SHAPE[1], SHAPE[0]]) * STEP
    places = (skin.place + 1) / 2 * extent + torch.from_numpy(ORIGIN).float()
    return window(torch.cat([places.movedim(-1, 0) / 60, laid]))


def save_detail_net(net: DetailNet, path: Path, metadata: dict[str, str]) -> list[Path]:
    """Write the network as safetensors, halves; batch norm's running figures stay whole."""
    tensors = {
        name: value if "running_" in name or not value.is_floating_point() else value.half()
        for name, value in net.state_dict().items()
        if "num_batches" not in name
    }
    config = json.dumps({"widths": _WIDTHS, "groups": GROUPS})
    return write_tensors(tensors, path, {**metadata, "format": _FORMAT, "config": config})


def load_detail_net(path: Path | None = None) -> DetailNet:
    """The network of a file, ready to use; the shipped one by default.

    Raises AssetError for a file of another kind or version.
    """
    source = shipped(SHIPPED_DETAIL) if path is None else path
    metadata = read_metadata(source)
    config = json.dumps({"widths": _WIDTHS, "groups": GROUPS})
    if metadata.get("format") != _FORMAT or metadata.get("config") != config:
        raise AssetError(
            f"{source} is no wrinkle network of this version (format "
            f"{metadata.get('format')!r}, wanted {_FORMAT!r} with the same groups); train one "
            "with `python -m deca.train wrinkles`"
        )
    net = DetailNet()
    own = net.state_dict()
    state = {
        name: value.to(own[name].dtype) if name in own else value
        for name, value in read_tensors(source).items()
    }
    counts = {name: value for name, value in own.items() if "num_batches" in name}
    install_weights(net, state | counts, described=str(source))
    return net.eval()
