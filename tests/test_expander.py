"""Quiet frames become quieter by the curve of a downward expander, loud ones stay."""

import math

import pytest
import torch

from voice.expander import expanded

_DB = 10 / math.log(10)


@pytest.mark.parametrize(
    ("level_db", "wanted_db"),
    [(28.0, 28.0), (-5.0, -5.0), (-9.0, -13.0), (-20.0, -35.0), (-45.0, -60.0)],
)
def test_levels_follow_the_curve(level_db, wanted_db):
    tilt = torch.linspace(3, -3, 80)
    power = tilt.exp() / tilt.exp().mean() * 10 ** (level_db / 10)
    loud = torch.full((80,), 3.0)
    made = expanded(torch.stack([power.log(), loud], dim=1)[None])[0]
    assert _DB * float(made[:, 0].exp().mean().log()) == pytest.approx(wanted_db, abs=1e-3)
    torch.testing.assert_close(made[:, 0] - made[0, 0], power.log() - power[0].log())
    torch.testing.assert_close(made[:, 1], loud)
