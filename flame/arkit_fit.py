"""FLAME's own codes for each ARKit shape: expression, jaw and eyelids by bounded least squares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.box_least_squares import solve_in_box
from flame.official import OfficialFlame
from flame.params import Params

EXPRESSION_LIMIT = 6.0  # standard deviations
JAW_LOW = (0.0, -0.3, -0.3)  # radians about x, y, z
JAW_HIGH = (0.7, 0.3, 0.3)
N_POSE = 5  # of a code, after the expression: jaw 3, eyelids 2
# which of the jaw's three turns a shape may use
_JAW_TURNS = {
    "jawOpen": (True, False, False),
    "jawLeft": (False, True, True),
    "jawRight": (False, True, True),
    "tongueOut": (True, False, False),
}
_ROUNDS = 6  # of Gauss-Newton, for the arc of the jaw
_TRY_JAW = 0.3  # radians; a turn that moves a jaw, where there is one, by centimetres


@dataclass(frozen=True)
class FitConfig:
    """What a code may be, and what it costs."""

    n_expression: int | None = None  # of the model's components; None: all
    use_jaw: bool | None = None  # None: if the model's jaw moves anything
    # one standard deviation of a component must win this much of the face, root mean square
    cost_mm: float = 0.03

    def __post_init__(self) -> None:
        if not self.cost_mm > 0:
            raise ValueError(f"cost_mm={self.cost_mm} must be positive, else codes have no limit")
        if self.n_expression is not None and self.n_expression < 1:
            raise ValueError(f"n_expression={self.n_expression} must be at least 1")


class CodeSpace:
    """Displacements of a model's face under codes [*, E + 5]: expression, jaw, eyelids."""

    def __init__(
        self, flame: OfficialFlame, face: Float[Tensor, " V"], config: FitConfig | None = None
    ) -> None:
        config = config or FitConfig()
        self.flame = flame
        own = flame.n_expression
        self.n_expression = own if config.n_expression is None else config.n_expression
        if self.n_expression > own:
            raise ValueError(
                f"n_expression={self.n_expression}, this FLAME model has {own}; ask for no more"
            )
        self.root_share = face.sqrt()
        self.cost_mm = config.cost_mm
        self.rest = self.verts(self.zeros(1))[0]
        trial = self.zeros(1)
        trial[0, self.n_expression] = _TRY_JAW
        moved = float(self.face_mm(self.verts(trial) - self.rest).norm())
        self.use_jaw = moved > 1.0 if config.use_jaw is None else config.use_jaw
        self.use_lids = flame.eyelids is not None
        self.rest_slopes = self.slopes(self.zeros(1)[0])
        cost = torch.ones_like(self.rest_slopes[:, 0])
        cost[self.n_expression :] = 1e-3  # a turned jaw or a closed lid costs next to nothing
        self.prior = torch.diag(self.cost_mm**2 * cost)

    def zeros(self, batch: int) -> Float[Tensor, "B N"]:
        return self.flame.template.new_zeros(batch, self.n_expression + N_POSE)

    @torch.no_grad()
    def verts(self, codes: Float[Tensor, "B N"]) -> Float[Tensor, "B V 3"]:
        """Vertices of the template's head under codes; root, neck and eyes are at rest."""
        expression, jaw, lids = self.split(codes)
        still = torch.zeros_like(jaw)
        params = Params(
            shape=codes.new_zeros(len(codes), 1),
            expression=expression,
            root=still,
            neck=still,
            jaw=jaw,
            eyes=codes.new_zeros(len(codes), 2, 3),
        )
        posed = self.flame(params, None if self.flame.eyelids is None else lids)
        verts: Tensor = posed.verts
        return verts

    def split(self, codes: Float[Tensor, "B N"]) -> tuple[Tensor, Tensor, Tensor]:
        return (
            codes[:, : self.n_expression],
            codes[:, self.n_expression : self.n_expression + 3],
            codes[:, self.n_expression + 3 :],
        )

    def face_mm(self, moves: Float[Tensor, "B V 3"]) -> Float[Tensor, "B V3"]:
        """Displacements whose squares sum to the mean square over the face, mm²."""
        return 1e3 * (moves * self.root_share[:, None]).flatten(1)

    def slopes(self, at: Float[Tensor, " N"]) -> Float[Tensor, "N V3"]:
        """What each code adds to the face near a code, mm; by steps as large as codes are."""
        steps = torch.diag(at.new_tensor([1.0] * self.n_expression + [0.02] * 3 + [0.5] * 2))
        ends = [self.face_mm(self.verts(self._lifted(at, sign * steps))) for sign in (1, -1)]
        size = self._lifted(at, steps) - self._lifted(at, -steps)
        width = size.diagonal()[:, None]
        return torch.where(width > 0, (ends[0] - ends[1]) / width.clamp(min=1e-9), 0.0)

    def bounds(self, name: str | None) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Least and greatest codes: of one shape, or of any sum of shapes (None)."""
        high = self.zeros(1)[0]
        high[: self.n_expression] = EXPRESSION_LIMIT
        low = -high
        jaw = slice(self.n_expression, self.n_expression + 3)
        if self.use_jaw:
            turns = (True,) * 3 if name is None else _JAW_TURNS.get(name, (False,) * 3)
            share = high.new_tensor(turns)
            low[jaw], high[jaw] = (share * share.new_tensor(b) for b in (JAW_LOW, JAW_HIGH))
        if self.use_lids:
            sides = [name is None or (name.startswith("eye") and name.endswith(side))
                     for side in ("Left", "Right")]  # fmt: skip
            high[-2:] = high.new_tensor(sides)
        return low, high

    def fit(
        self,
        name: str,
        goal: Float[Tensor, "V 3"],
        start: Float[Tensor, " N"] | None = None,
        held: Float[Tensor, " N"] | None = None,
    ) -> Float[Tensor, " N"]:
        """The codes of one shape; `held` fixes jaw and lids, as for what corrects an open jaw."""
        low, high = self.bounds(name)
        if held is not None:
            low, high = low.clone(), high.clone()
            low[self.n_expression :] = high[self.n_expression :] = held[self.n_expression :]
        code = (self.zeros(1)[0] if start is None else start).clamp(low, high)
        wanted = self.face_mm(goal[None])[0]
        turns = slice(self.n_expression, self.n_expression + 3)
        if bool((low[turns] == 0).all() and (high[turns] == 0).all()):  # no arc, so linear
            return self._solved(self.rest_slopes, wanted, low, high)
        for _ in range(_ROUNDS):
            slopes = self.slopes(code)
            reached = self.face_mm(self.verts(code[None]) - self.rest)[0]
            # what the whole code must give, were the face linear with these slopes
            last, code = code, self._solved(slopes, wanted - reached + code @ slopes, low, high)
            if float((code - last).abs().max()) < 1e-4:
                break
        return code

    def _solved(
        self, slopes: Tensor, wanted: Tensor, low: Tensor, high: Tensor
    ) -> Float[Tensor, " N"]:
        quadratic = slopes @ slopes.T + self.prior
        return solve_in_box(quadratic, (slopes @ wanted)[None], low[None], high[None])[0]

    def _lifted(self, at: Tensor, steps: Tensor) -> Tensor:
        codes = at + steps
        # the model holds eyelids to 0..1: steps must not leave that range
        lids = codes[:, -2:].clamp(0, 1)
        return torch.cat([codes[:, :-2], lids], dim=1)


def fit_shapes(
    space: CodeSpace, morphs: Float[Tensor, "52 V 3"]
) -> tuple[Float[Tensor, "52 N"], Float[Tensor, "N N"]]:
    """Codes of all shapes, and the metric that makes mean squares (mm²) of small codes."""
    codes = torch.stack(
        [space.fit(name, goal) for name, goal in zip(ARKIT_NAMES, morphs, strict=True)]
    )
    opened, close = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
    # closed lips are wanted of an open jaw; alone the shape would drive them through each other
    both = morphs[opened] + morphs[close]
    codes[close] = space.fit("mouthClose", both, codes[opened], codes[opened]) - codes[opened]
    used = torch.cat(
        [
            torch.ones(space.n_expression),
            torch.full((3,), float(space.use_jaw)),
            torch.full((2,), float(space.use_lids)),
        ]
    ).to(space.rest_slopes)
    slopes = space.rest_slopes * used[:, None]
    return codes, slopes @ slopes.T
