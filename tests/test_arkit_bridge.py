"""ARKit to FLAME and back, on a stand-in of FLAME that is a face and whose truth is known."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelike_flame import N_EYE, N_HEAD, lifelike
from scipy.optimize import lsq_linear

import flame.arkit_bridge as bridge_file
from assets.errors import AssetError
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.arkit_bridge import ANTAGONISTS, OfficialParams, arkit_bridge, arkit_morphs
from flame.arkit_fit import EXPRESSION_LIMIT, JAW_HIGH, JAW_LOW, CodeSpace, FitConfig
from flame.arkit_report import random_codes, random_weights, round_trips
from flame.box_least_squares import solve_in_box
from flame.official import load_flame
from flame.params import JAW_OPEN_DEG, LOOK_DEG, Params, arkit_from_params, params_from_arkit

JAW_OPEN, CLOSE, TONGUE = (ARKIT_INDEX[n] for n in ("jawOpen", "mouthClose", "tongueOut"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVATAR_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model_file(home):
    return lifelike().write(home / "model")


@pytest.fixture(scope="module")
def flame(model_file):
    return load_flame(model_file, dtype=torch.float64)


@pytest.fixture(scope="module")
def bridge(flame):
    return arkit_bridge(flame)


def at_once(name):
    weights = torch.zeros(1, 52, dtype=torch.float64)
    weights[0, ARKIT_INDEX[name]] = 1
    return weights


def test_transferred_shapes_are_the_true_ones_to_a_twentieth_of_a_millimetre(bridge):
    face = bridge.face.numpy()
    error = 1e3 * np.linalg.norm(bridge.morphs.double().numpy() - lifelike().morphs, axis=2)
    mean = error @ face
    assert mean.mean() < 0.08
    assert mean.max() < 0.35  # jawOpen, which moves by 42 mm
    assert np.percentile(error[:, face > 0], 99) < 1.2
    assert bridge.distance_mm < 0.3


def test_scalp_and_ears_stay_and_eyeballs_turn_rigidly(flame, bridge):
    morphs = bridge.morphs.double()
    truly = torch.from_numpy(lifelike().morphs).norm(dim=2).amax(0)
    parts = torch.cat([flame.masks[name] for name in ("scalp", "left_ear", "right_ear")])
    resting = parts[truly[parts] < 5e-4]
    assert len(resting) > 200
    assert float(morphs[:, resting].norm(dim=2).max()) < 1.5e-3
    assert float((morphs[:, resting] == 0).all(2).all(0).float().mean()) > 0.9
    joints = flame.joint_regressor @ flame.template
    for eye, side, sign in ((0, "Left", 1.0), (1, "Right", -1.0)):
        ball = torch.arange(N_EYE) + N_HEAD + eye * N_EYE
        arm = flame.template[ball] - joints[3 + eye]
        moved = arm + morphs[:, ball]
        lengths = arm.norm(dim=1).expand(52, -1)
        torch.testing.assert_close(moved.norm(dim=2), lengths, atol=1e-6, rtol=0)
        front = int(arm[:, 2].argmax())
        out = morphs[ARKIT_INDEX[f"eyeLookOut{side}"], ball[front], 0]
        reach = arm[front].norm() * math.sin(math.radians(LOOK_DEG["Out"]))
        assert float(out * sign) == pytest.approx(float(reach), rel=0.1)
        still = [i for i, n in enumerate(ARKIT_NAMES) if not n.startswith("eyeLook")]
        assert (morphs[still][:, ball] == 0).all()


def test_an_open_jaw_is_the_joints_turn_and_hardly_any_expression(bridge):
    # the stand-in is skinned as our head is, whose jawOpen is a hinge with a corrective
    turn = bridge.jaw[JAW_OPEN]
    assert math.degrees(float(turn[0])) == pytest.approx(JAW_OPEN_DEG, abs=1.5)
    others = [i for i in range(52) if ARKIT_NAMES[i] not in ("jawOpen", "jawLeft", "jawRight")]
    others.remove(TONGUE)
    assert (bridge.jaw[others] == 0).all()
    assert (bridge.eyelids[ARKIT_INDEX["eyeBlinkLeft"]] * torch.tensor([1.0, 0.0])).sum() > 0.5
    assert float(bridge.eyelids[ARKIT_INDEX["eyeBlinkLeft"], 1]) == 0


def test_flame_under_the_codes_is_the_transferred_face(flame, bridge, generator):
    found = round_trips(flame, bridge, random_weights(60, generator))
    assert float(found.fit_mm[:, 0].mean()) < 0.25
    assert float(found.fit_mm[:, 0].mean() / found.size_mm[:, 0].mean()) < 0.2
    single = round_trips(flame, bridge, at_once("mouthSmileLeft"))
    assert float(single.size_mm[0, 1]) > 10
    assert float(single.fit_mm[0, 0]) < 0.15


def test_weights_survive_the_way_to_codes_and_back(flame, bridge, generator):
    weights = random_weights(100, generator)
    found = round_trips(flame, bridge, weights)
    assert float(found.back.abs().mean()) < 2e-3
    assert float(found.back.abs().flatten().quantile(0.99)) < 0.03
    assert float(found.return_mm[:, 0].max()) < 0.1
    # blinks over squints are held at a closed lid; all else comes back as it was
    lids = weights @ bridge.eyelids
    whole = (lids <= 1).all(1) & ((weights @ bridge.expression).abs() < EXPRESSION_LIMIT).all(1)
    assert whole.sum() > 60
    assert float(found.back[whole].abs().max()) < 5e-3
    assert float(found.return_mm[:, 0].max()) < 0.1


def test_codes_survive_as_far_as_arkit_can_say_them(flame, bridge, generator):
    weights = random_weights(40, generator)
    codes = bridge.params_from_arkit(weights)
    noisy = dataclasses.replace(
        codes.params,
        expression=codes.params.expression
        + 0.05 * torch.randn(codes.params.expression.shape, generator=generator).double(),
    )
    back = bridge.arkit_from_params(OfficialParams(noisy, codes.eyelids))
    assert float((back - weights).abs().mean()) < 0.02


def test_half_a_weight_is_half_the_code(bridge):
    for name in ("jawOpen", "browInnerUp", "cheekPuff"):
        whole = bridge.params_from_arkit(at_once(name))
        half = bridge.params_from_arkit(0.5 * at_once(name))
        torch.testing.assert_close(half.params.expression, 0.5 * whole.params.expression)
        torch.testing.assert_close(half.params.jaw, 0.5 * whole.params.jaw)


def test_bounds_hold_for_any_code_and_any_weight(bridge, generator):
    codes = random_codes(bridge, 60, generator)
    wild = dataclasses.replace(
        codes.params,
        expression=4 * codes.params.expression,
        jaw=torch.randn(60, 3, generator=generator).double(),
        eyes=torch.randn(60, 2, 3, generator=generator).double(),
    )
    weights = bridge.arkit_from_params(OfficialParams(wild, torch.rand(60, 2).double()))
    assert weights.min() >= 0 and weights.max() <= 1
    looks = [(f"eyeLook{a}{s}", f"eyeLook{b}{s}") for s in ("Left", "Right")
             for a, b in (("Up", "Down"), ("In", "Out"))]  # fmt: skip
    for one, other in (*ANTAGONISTS, *looks):
        both = torch.minimum(weights[:, ARKIT_INDEX[one]], weights[:, ARKIT_INDEX[other]])
        assert float(both.max()) < 1e-9, (one, other)
    assert (weights[:, CLOSE] <= weights[:, JAW_OPEN] + 1e-9).all()
    assert (weights[:, TONGUE] == 0).all()
    back = bridge.params_from_arkit(torch.ones(1, 52, dtype=torch.float64))
    assert float(back.params.expression.abs().max()) <= EXPRESSION_LIMIT
    jaw = back.params.jaw[0]
    assert (jaw >= jaw.new_tensor(JAW_LOW)).all() and (jaw <= jaw.new_tensor(JAW_HIGH)).all()
    assert back.eyelids.min() >= 0 and back.eyelids.max() <= 1


def test_a_closed_mouth_over_a_jaw_that_is_hardly_open_is_held_to_it(bridge):
    weights = 0.3 * at_once("jawOpen") + 0.9 * at_once("mouthClose")
    given = bridge.params_from_arkit(weights)
    held = bridge.params_from_arkit(0.3 * at_once("jawOpen") + 0.3 * at_once("mouthClose"))
    torch.testing.assert_close(given.params.expression, held.params.expression)


def test_items_of_a_batch_do_not_touch_one_another_and_types_stay(bridge, generator):
    codes = random_codes(bridge, 5, generator)
    together = bridge.arkit_from_params(codes)
    apart = torch.cat([bridge.arkit_from_params(codes[i]) for i in range(5)])
    torch.testing.assert_close(together, apart, atol=1e-7, rtol=0)
    single = bridge.params_from_arkit(torch.rand(3, 52, generator=generator))
    assert single.params.expression.dtype == torch.float32
    assert single.eyelids.dtype == torch.float32
    assert bridge.arkit_from_params(single).dtype == torch.float32


@pytest.mark.parametrize("seed", range(4))
def test_the_solver_finds_what_scipys_finds(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(60, 52)) @ np.diag(10 ** rng.uniform(-1.5, 1, 52))
    goals = rng.normal(size=(3, 60)) * 5
    high = rng.uniform(0, 1, 52) * (rng.uniform(size=52) > 0.1) + 1e-12
    found = solve_in_box(
        torch.from_numpy(rows.T @ rows),
        torch.from_numpy(goals @ rows),
        torch.zeros(3, 52, dtype=torch.float64),
        torch.from_numpy(high).expand(3, 52),
    )
    for goal, x in zip(goals, found.numpy(), strict=True):
        best = lsq_linear(rows, goal, (0, high), method="bvls", tol=1e-14)
        own = 0.5 * np.square(rows @ x - goal).sum()
        assert own <= best.cost * (1 + 1e-9) + 1e-12
        assert (x >= 0).all() and (x <= high).all()


def test_the_bridge_is_made_once_and_again_when_model_or_file_changed(
    flame, bridge, home, monkeypatch, caplog
):
    (path,) = (home / "cache" / "flame").glob("arkit-*.safetensors")

    class MadeError(Exception):
        pass

    def build(*_):
        raise MadeError

    monkeypatch.setattr(bridge_file, "_build", build)
    again = arkit_bridge(flame)
    torch.testing.assert_close(again.expression, bridge.expression, atol=0, rtol=0)
    assert again.has_eyelids and again.distance_mm == bridge.distance_mm
    with pytest.raises(MadeError):
        arkit_bridge(flame, FitConfig(n_expression=50))
    kept = flame.posedirs.clone()
    flame.posedirs += 1e-9
    with pytest.raises(MadeError):
        arkit_bridge(flame)
    flame.posedirs.copy_(kept)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MadeError):
        arkit_bridge(flame)
    assert "making the bridge to ARKit again" in caplog.text
    path.write_bytes(whole)


def test_a_model_whose_jaw_moves_nothing_gets_no_jaw_codes(flame, bridge):
    weights = flame.lbs_weights.clone()
    posedirs = flame.posedirs.clone()
    flame.lbs_weights[:, 1] += flame.lbs_weights[:, 2]
    flame.lbs_weights[:, 2] = 0
    flame.posedirs[9:18] = 0
    try:
        space = CodeSpace(flame, bridge.face, FitConfig(n_expression=20))
        assert not space.use_jaw
        code = space.fit("jawOpen", bridge.morphs[JAW_OPEN].double())
        assert (code[20:23] == 0).all()
        assert float(code[:20].abs().max()) > 0.5  # the expression does what it can
    finally:
        flame.lbs_weights.copy_(weights)
        flame.posedirs.copy_(posedirs)


def test_codes_of_another_width_are_refused_with_the_mend(bridge):
    params = Params.zeros(1, 1, 101)
    with pytest.raises(ValueError, match=r"has 101 .* made for 100; make it with FitConfig"):
        bridge.arkit_from_params(OfficialParams(params))
    short = bridge.arkit_from_params(OfficialParams(Params.zeros(1, 1, 50)))
    assert (short == 0).all()


def test_without_landmarks_the_bridge_says_what_to_place(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    path = lifelike().write(tmp_path / "model")
    for name in ("landmark_embedding.npy", "flame_static_embedding.pkl"):
        (tmp_path / "model" / name).unlink()
    with pytest.raises(AssetError, match=r"put landmark_embedding\.npy beside it"):
        arkit_bridge(load_flame(path))


def test_a_flame_head_is_exported_with_the_shapes(flame, bridge):
    shape = torch.zeros(300, dtype=torch.float64)
    shape[0] = 1.0
    morphs = arkit_morphs(flame, shape, bridge)
    head = flame.head(shape, morphs, ARKIT_NAMES)
    assert head.morph_names == ARKIT_NAMES
    ball = torch.arange(N_EYE) + N_HEAD
    arm = head.verts[ball] - head.joints[4]
    moved = arm + morphs[ARKIT_INDEX["eyeLookUpLeft"], ball]
    torch.testing.assert_close(moved.norm(dim=1), arm.norm(dim=1), atol=1e-9, rtol=0)
    torch.testing.assert_close(morphs[:, :N_HEAD], bridge.morphs[:, :N_HEAD].double())


def test_the_command_prints_a_line_a_shape(model_file, bridge, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["arkit_bridge", str(model_file)])
    bridge_file.main()
    lines = capsys.readouterr().out.splitlines()
    named = [line for line in lines if line.split()[0] in ARKIT_INDEX]
    assert [line.split()[0] for line in named] == list(ARKIT_NAMES)
    assert any(line.startswith("200 random faces") for line in lines)
    monkeypatch.setattr(sys, "argv", ["arkit_bridge", str(tmp_path / "none.pkl")])
    with pytest.raises(SystemExit) as stopped:
        bridge_file.main()
    assert stopped.value.code == 2
    assert "none.pkl is not there" in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=52, max_size=52))
def test_our_own_heads_codes_keep_opposite_looks(values):
    weights = torch.tensor([values])
    weights[0, CLOSE] = torch.minimum(weights[0, CLOSE], weights[0, JAW_OPEN])
    params = params_from_arkit(torch.zeros(1, 2), weights)
    torch.testing.assert_close(arkit_from_params(params), weights, atol=1e-6, rtol=0)


def test_where_eyes_and_lids_differ_the_eyes_decide():
    weights = at_once("eyeLookUpLeft").float()
    params = params_from_arkit(torch.zeros(1, 2), weights)
    down = dataclasses.replace(params, eyes=-params.eyes)
    found = arkit_from_params(down)
    assert float(found[0, ARKIT_INDEX["eyeLookUpLeft"]]) == 0
    wanted = LOOK_DEG["Up"] / LOOK_DEG["Down"]
    assert float(found[0, ARKIT_INDEX["eyeLookDownLeft"]]) == pytest.approx(wanted)
