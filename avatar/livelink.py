"""Motion as the CSV of Apple's and Epic's Live Link Face app, for Unreal, Blender and Maya."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch

from assets.files import replacing
from avatar.gestures import GAZE_RANGE_DEG
from avatar.motion import Motion
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_NAMES
from flame.rotation import axis_angle_to_matrix

_ANGLES = tuple(
    f"{part}{axis}" for part in ("Head", "LeftEye", "RightEye") for axis in ("Yaw", "Pitch", "Roll")
)


def _recorded_order() -> tuple[str, ...]:
    """ARKit's names as the app writes them: right before left for jaw and mouth."""
    names = list(ARKIT_NAMES)
    for first, second in (("jawLeft", "jawRight"), ("mouthLeft", "mouthRight")):
        at = names.index(first)
        assert names[at + 1] == second
        names[at : at + 2] = [second, first]
    return tuple(names)


_ORDER = _recorded_order()
HEADER = (
    "Timecode",
    "BlendShapeCount",
    *(name[0].upper() + name[1:] for name in _ORDER),
    *_ANGLES,
)


def save_csv(motion: Motion, path: Path | str) -> Path:
    """Write one line a frame: timecode, 61, then 52 weights and 9 angles in radians.

    Timecodes are hours:minutes:seconds:frame.thousandths of a frame. Head angles join all joints
    from root to head; eye angles are those that the eyeLook weights stand for. Yaw is positive to
    the subject's left, pitch downwards, roll towards the viewer's left.
    """
    path = Path(path)
    columns = motion.weights[:, [ARKIT_INDEX[name] for name in _ORDER]].double()
    values = torch.cat([columns, _angles(motion)], dim=1)  # [T, 61]
    with replacing(path) as beside, open(beside, "w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for frame, row in enumerate(values.tolist()):
            numbers = [f"{value:.6f}" for value in row]
            writer.writerow([timecode(frame, motion.rate_hz), len(row), *numbers])
    return path


def timecode(frame: int, rate_hz: float) -> str:
    """`hh:mm:ss:ff.fff` of a frame, counted from zero."""
    frame_rate = math.ceil(rate_hz - 1e-9)
    whole_s, inside = divmod(frame / rate_hz, 1.0)
    # rounding first: 59.9999 frames are the next second's frame 0
    thousandths = round(inside * rate_hz * 1000)
    if thousandths >= frame_rate * 1000:
        whole_s, thousandths = whole_s + 1, 0
    minutes, seconds = divmod(int(whole_s), 60)
    hours, minutes = divmod(minutes, 60)
    frames, part = divmod(thousandths, 1000)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}:{frames:02d}.{part:03d}"


def _angles(motion: Motion) -> torch.Tensor:
    """Yaw, pitch and roll of head and eyes, radians, [T, 9]."""
    turn = torch.eye(3, dtype=torch.float64)
    for joint in ("root", "neck", "head"):
        turn = turn @ axis_angle_to_matrix(motion.rotations[:, JOINT_NAMES.index(joint)].double())
    # turn = Ry(yaw) Rx(pitch) Rz(roll)
    yaw = torch.atan2(turn[:, 0, 2], turn[:, 2, 2])
    pitch = torch.asin(-turn[:, 1, 2].clamp(-1.0, 1.0))
    roll = torch.atan2(turn[:, 1, 0], turn[:, 1, 1])
    parts = [yaw, pitch, roll]
    for side in ("Left", "Right"):
        look = {
            way: motion.weights[:, ARKIT_INDEX[f"eyeLook{way}{side}"]].double()
            for way in ("In", "Out", "Up", "Down")
        }
        outward = math.radians(GAZE_RANGE_DEG) * (look["Out"] - look["In"])
        downward = math.radians(GAZE_RANGE_DEG) * (look["Down"] - look["Up"])
        parts += [outward if side == "Left" else -outward, downward, torch.zeros_like(downward)]
    return torch.stack(parts, dim=1)
