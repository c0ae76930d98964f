"""Recordings of Live Link Face and other programs are read as they were meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from assets.errors import AssetError
from avatar.livelink import HEADER, load_csv, save_csv
from avatar.motion import Motion
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_NAMES

# The header of a take of Epic's app, version 1.x, as it is.
RECORDED = (
    "Timecode,BlendShapeCount,EyeBlinkLeft,EyeLookDownLeft,EyeLookInLeft,EyeLookOutLeft,"
    "EyeLookUpLeft,EyeSquintLeft,EyeWideLeft,EyeBlinkRight,EyeLookDownRight,EyeLookInRight,"
    "EyeLookOutRight,EyeLookUpRight,EyeSquintRight,EyeWideRight,JawForward,JawRight,JawLeft,"
    "JawOpen,MouthClose,MouthFunnel,MouthPucker,MouthRight,MouthLeft,MouthSmileLeft,"
    "MouthSmileRight,MouthFrownLeft,MouthFrownRight,MouthDimpleLeft,MouthDimpleRight,"
    "MouthStretchLeft,MouthStretchRight,MouthRollLower,MouthRollUpper,MouthShrugLower,"
    "MouthShrugUpper,MouthPressLeft,MouthPressRight,MouthLowerDownLeft,MouthLowerDownRight,"
    "MouthUpperUpLeft,MouthUpperUpRight,BrowDownLeft,BrowDownRight,BrowInnerUp,BrowOuterUpLeft,"
    "BrowOuterUpRight,CheekPuff,CheekSquintLeft,CheekSquintRight,NoseSneerLeft,NoseSneerRight,"
    "TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,LeftEyePitch,LeftEyeRoll,RightEyeYaw,"
    "RightEyePitch,RightEyeRoll"
)


def recorded(timecodes: list[str], **columns: list[float]) -> str:
    """A take with these columns; all others are zero."""
    titles = RECORDED.split(",")
    lines = [RECORDED]
    for frame, code in enumerate(timecodes):
        cells = [code, "61", *["0"] * 61]
        for name, values in columns.items():
            cells[titles.index(name)] = repr(values[frame])
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def plain(names: list[str], rows: list[list[float]], delimiter: str = ",") -> str:
    lines = [delimiter.join(names)]
    return "\n".join(lines + [delimiter.join(map(repr, row)) for row in rows]) + "\n"


def column(motion: Motion, name: str) -> list[float]:
    return motion.weights[:, ARKIT_INDEX[name]].tolist()


def written(tmp_path, text: str, encoding: str = "utf-8"):
    path = tmp_path / "take.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_our_own_header_is_the_apps():
    assert ",".join(HEADER) == RECORDED


@pytest.mark.parametrize("rate_hz", [24.0, 29.97, 30.0, 59.94, 60.0, 120.0])
def test_what_was_saved_is_loaded_again_at_its_rate(tmp_path, generator, rate_hz):
    frames = int(2.5 * rate_hz)
    rotations = torch.zeros(frames, 6, 3)
    turn = 0.3 * torch.randn(frames, 3, generator=generator)
    rotations[:, JOINT_NAMES.index("neck")] = 0.4 * turn
    rotations[:, JOINT_NAMES.index("head")] = 0.6 * turn
    motion = Motion(rate_hz, torch.rand(frames, 52, generator=generator), rotations)
    loaded = load_csv(save_csv(motion, tmp_path / "take.csv"))
    assert loaded.rate_hz == pytest.approx(rate_hz, rel=1e-9)
    torch.testing.assert_close(loaded.weights, motion.weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.rotations, motion.rotations, atol=5e-6, rtol=0)


def test_a_recorded_take_gives_each_shape_its_own_column(tmp_path):
    codes = [f"13:45:{58 + k // 60:02d}:{k % 60:02d}.{137 + k % 3}" for k in range(50, 130)]
    jaw = [k / 200 for k in range(80)]
    left = [1 - k / 200 for k in range(80)]
    motion = load_csv(written(tmp_path, recorded(codes, JawOpen=jaw, MouthLeft=left)))
    assert motion.rate_hz == 60.0 and len(motion) == 80
    assert column(motion, "jawOpen") == pytest.approx(jaw)
    assert column(motion, "mouthLeft") == pytest.approx(left)
    assert float(motion.weights.sum()) == pytest.approx(sum(jaw) + sum(left), rel=1e-5)


def test_head_angles_turn_the_head_about_the_subjects_axes(tmp_path):
    yaw, pitch, roll = 0.4, -0.25, 0.1
    text = recorded(["00:00:00:00.000"], HeadYaw=[yaw], HeadPitch=[pitch], HeadRoll=[roll])
    rotations = load_csv(written(tmp_path, text)).rotations[0].double().numpy()
    total = Rotation.from_rotvec(rotations[JOINT_NAMES.index("neck")]) * Rotation.from_rotvec(
        rotations[JOINT_NAMES.index("head")]
    )
    expected = Rotation.from_euler("YXZ", [yaw, pitch, roll])
    np.testing.assert_allclose(total.as_matrix(), expected.as_matrix(), atol=1e-6)
    # a yaw to the subject's left carries the nose, +z, to +x
    assert expected.apply([0, 0, 1])[0] > 0


@pytest.mark.parametrize("count", [51, 52, 61])
def test_columns_may_come_in_any_order(tmp_path, count):
    rng = np.random.default_rng(count)
    names = [*ARKIT_NAMES[: min(count, 52)], *RECORDED.split(",")[-9:]][:count]
    values = rng.random((3, count)) / 4
    order = rng.permutation(count)
    text = plain([names[k] for k in order], values[:, order].tolist())
    motion = load_csv(written(tmp_path, text), rate_hz=30)
    assert motion.rate_hz == 30
    np.testing.assert_allclose(motion.weights[:, :51], values[:, :51], atol=1e-7)
    assert count > 51 or float(motion.weights[:, 51].abs().max()) == 0


def spelled(name: str, style: str) -> str:
    if style == "snake":
        return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    if style == "letter":
        return name.replace("Left", "_L") if name.endswith("Left") else name.replace("Right", "_R")
    return f" {name.upper()} "


@pytest.mark.parametrize("style", ["snake", "letter", "capitals"])
def test_names_are_known_however_they_are_spelled(tmp_path, style):
    names = [spelled(name, style) for name in ARKIT_NAMES]
    row = [k / 100 for k in range(52)]
    motion = load_csv(written(tmp_path, plain(names, [row])))
    torch.testing.assert_close(motion.weights[0], torch.tensor(row))


@pytest.mark.parametrize(
    ("begin", "delimiter", "encoding"),
    [
        ("", ";", "utf-8-sig"),
        ("sep=;\n", ";", "utf-8"),
        ("", "\t", "utf-16"),
        ("\n\n", ",", "utf-8"),
    ],
)
def test_spreadsheets_dialects_are_read(tmp_path, begin, delimiter, encoding):
    rows = [[(k + 52 * j) / 200 for k in range(52)] for j in range(3)]
    text = plain(list(ARKIT_NAMES), rows, delimiter)
    if delimiter != ",":
        text = text.replace(".", ",")
    # spreadsheets leave empty cells after the last column and empty lines after the last row
    text = begin + text.replace("\n", delimiter * 3 + "\n") + delimiter * 54 + "\n\n"
    motion = load_csv(written(tmp_path, text.replace("\n", "\r\n"), encoding))
    torch.testing.assert_close(motion.weights, torch.tensor(rows))


def test_frames_that_the_phone_dropped_are_filled_in(tmp_path):
    kept = [k for k in range(150) if k % 11 and k not in range(70, 76)] + [150]
    codes = [f"23:59:{58 + k // 60:02d}:{k % 60:02d}.000" for k in kept]
    codes = [code.replace("23:59:60", "00:00:00") for code in codes]  # midnight passes as well
    text = recorded(codes, JawOpen=[k / 200 for k in kept])
    motion = load_csv(written(tmp_path, text))
    assert motion.rate_hz == 60.0
    assert column(motion, "jawOpen") == pytest.approx([k / 200 for k in range(1, 151)], abs=1e-6)


def test_a_clock_in_seconds_or_milliseconds_tells_the_rate(tmp_path):
    for title, unit in (("Timestamp", 1.0), ("time_ms", 1000.0)):
        rows = [[unit * (5 + k / 25), *[0.0] * 52] for k in range(9)]
        motion = load_csv(written(tmp_path, plain([title, *ARKIT_NAMES], rows)))
        assert motion.rate_hz == 25.0 and len(motion) == 9


def test_lines_without_a_face_are_passed_over_in_time(tmp_path):
    codes = [f"00:00:{k // 30:02d}:{k % 30:02d}.000" for k in range(70)]
    lines = recorded(codes, JawOpen=[k / 100 for k in range(70)]).splitlines()
    for k in (21, 22, 23):
        lines[k] = f"{codes[k - 1]},0" + "," * 61
    motion = load_csv(written(tmp_path, "\n".join(lines)))
    assert column(motion, "jawOpen") == pytest.approx([k / 100 for k in range(70)], abs=1e-6)


def test_weights_a_little_out_of_range_are_held_to_it(tmp_path):
    motion = load_csv(written(tmp_path, recorded(["0:0:0:0", "0:0:0:1"], JawOpen=[1.02, -0.01])))
    assert column(motion, "jawOpen") == [1.0, 0.0]


ROW = ",".join(["0.5"] * 52)
NAMES = ",".join(ARKIT_NAMES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (f"{NAMES}\n", "has a header and no frame"),
        (ROW + "\n" + ROW, "no column named like an ARKit blendshape"),
        ("a,b,c\n1,2,3", "no column named like an ARKit blendshape"),
        (NAMES.replace("jawOpen,", "") + "\n" + ROW[4:], "no column jawOpen; add"),
        ("jawOpen,eyeBlinkLeft\n0,0", "eyeLookDownLeft, eyeLookInLeft.* and 45 more"),
        (f"{NAMES}\n{ROW}\n{ROW[4:]}", "51 cells in line 3 and 52 columns"),
        (f"{NAMES}\n{ROW},0.5", "53 cells in line 2 and 52 columns"),
        (
            f"{NAMES}\n{ROW}\nnan{ROW[3:]}",
            "'nan', which is no number, under eyeBlinkLeft in line 3",
        ),
        (f"{NAMES}\ninf{ROW[3:]}", "'inf', which is no number"),
        (f"{NAMES}\n{ROW[:-3]}open", "'open', which is no number, under tongueOut in line 2"),
        (f"{NAMES}\n{ROW[:-3]}", "has nothing, under tongueOut in line 2"),
        (f"{NAMES}\n50{ROW[3:]}", "weights from 0.5 to 50; weights are 0..1"),
        (f"{NAMES},jaw_open\n{ROW},0", "two columns of jawOpen"),
        (f"{NAMES},HeadYaw\n{ROW},35", "HeadYaw up to 35, more than half a turn"),
        (f"time,{NAMES}\n0,{ROW}\n1,{ROW}\n0.5,{ROW}", "goes back in time at line 4"),
        (f"time,{NAMES}\n1,{ROW}\n1,{ROW}", "one time on all lines"),
        (f"Timecode,{NAMES}\nnoon,{ROW}\n1,{ROW}", "'noon' as timecode in line 2"),
        (f'{NAMES}\n{ROW}\n"0.5{ROW[3:]}', "in line 3"),
        ("PK\0\0" + NAMES, "zero bytes"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, text, words):
    with pytest.raises(AssetError, match=words) as caught:
        load_csv(written(tmp_path, text))
    assert "\n" not in str(caught.value) and "take.csv" in str(caught.value)


def test_what_is_no_text_or_not_there_is_one_sentence(tmp_path):
    with pytest.raises(AssetError, match="is not there"):
        load_csv(tmp_path / "none.csv")
    (tmp_path / "take.csv").write_bytes(b"EyeBlinkLeft,\xff\xfe\x00\x81\n")
    with pytest.raises(AssetError, match="no text"):
        load_csv(tmp_path / "take.csv")


@pytest.mark.parametrize("rate_hz", [0.0, -30.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(tmp_path, rate_hz):
    with pytest.raises(ValueError, match="choose 1 to 1000"):
        load_csv(written(tmp_path, f"{NAMES}\n{ROW}"), rate_hz=rate_hz)
