"""How clearly a face is drawn: how sure the shipped encoder is of where its points lie."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from deca.code_net import CodeNet, load_code_net
from deca.encode import encode
from deca.portrait import Portrait
from flame.load import load_head
from flame.model import Flame

_FACELESS = 0.05  # uncertainty of a picture without one clear face, as a share of its size
_WEIGHT = 10.0  # nats; of four drawings, faces then differ about as much as words do


@torch.no_grad()
def face_clearness(pictures: Float[Tensor, "B 3 H W"]) -> list[float]:
    """Of each picture, in the nats of `diffusion.shipped_portrait.prompt_fits`."""
    flame, net = _models()

    def uncertainty(picture: Float[Tensor, "1 3 H W"]) -> float:
        try:
            return encode(Portrait(picture, "drawing", ""), flame, net).landmarks.uncertainty()
        except ValueError:  # no face, or several
            return _FACELESS

    return [-_WEIGHT * math.log(uncertainty(one)) for one in pictures[:, None]]


@lru_cache(maxsize=1)
def _models() -> tuple[Flame, CodeNet]:
    flame = load_head()
    return flame, load_code_net(flame)
