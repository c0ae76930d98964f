"""Motion as the CSV of Apple's and Epic's Live Link Face app, for Unreal, Blender and Maya."""

from __future__ import annotations

import csv
import logging
import math
import re
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing
from avatar.csv_table import Table, read_table
from avatar.gestures import GAZE_RANGE_DEG
from avatar.livelink_times import MILLISECONDS, SECONDS, frame_times_s, steady
from avatar.motion import Motion
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_NAMES
from flame.rotation import axis_angle_to_matrix, matrix_to_axis_angle

log = logging.getLogger(__name__)

APP_RATE_HZ = 60.0
HEAD_SHARES = {"neck": 0.4, "head": 0.6}  # of the head's turn, about one axis
_SLACK = 0.5  # how far out of 0..1 a recorder's calibration may push weights

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

_KNOWN = {name.lower(): name for name in (*ARKIT_NAMES, *_ANGLES)}
_KNOWN |= {name: name for name in ("timecode", *SECONDS, *MILLISECONDS)}


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


def load_csv(path: Path | str, *, rate_hz: float | int | None = None) -> Motion:
    """The motion in a CSV of Live Link Face or of any program that names ARKit's blendshapes.

    Columns may be in any order and in any case of letters, `eye_blink_left` and `eyeBlink_L` are
    understood, and others are left aside. tongueOut may be missing, as in ARKit's first 51; head
    angles too, and without them the head is still. Their turn is shared by neck and head; eye
    angles are not read, as the eyeLook weights say the same. Weights a little out of 0..1 are
    clamped. Frames that are unevenly spaced in time are brought to a steady rate; without times,
    or with `rate_hz`, each line is a frame (60 a second by default, as the app records). All that
    cannot be read is an AssetError.
    """
    table = read_table(Path(path))
    columns = _columns(table)
    table = _tracked(table, columns)
    weights = torch.zeros(len(table.rows), len(ARKIT_NAMES), dtype=torch.float64)
    for index, name in enumerate(ARKIT_NAMES):
        if name in columns:
            weights[:, index] = torch.tensor(table.numbers(columns[name]), dtype=torch.float64)
    low, high = float(weights.min()), float(weights.max())
    if low < -_SLACK or high > 1 + _SLACK:
        raise AssetError(
            f"{table.path} holds weights from {low:.4g} to {high:.4g}; weights are 0..1 "
            "(divide percentages by 100)"
        )
    turn = _head_turn(table, columns)
    times_s = None if rate_hz is not None else frame_times_s(table, columns)
    if times_s is None:
        rate_hz = APP_RATE_HZ if rate_hz is None else rate_hz
        if not (math.isfinite(rate_hz) and 1 <= rate_hz <= 1000):
            raise ValueError(f"rate_hz={rate_hz} is out of range; choose 1 to 1000")
    else:
        rate_hz, positions = steady(times_s)
        if positions is not None:
            weights, turn = _at(weights, positions), _at(turn, positions)
    rotations = torch.zeros(len(weights), len(JOINT_NAMES), 3, dtype=torch.float64)
    for joint, share in HEAD_SHARES.items():
        rotations[:, JOINT_NAMES.index(joint)] = share * turn
    return Motion(float(rate_hz), weights.clamp(0.0, 1.0).float(), rotations.float())


def _columns(table: Table) -> dict[str, int]:
    """Where the columns that are read are, by ARKit's name or the plain name."""
    found: dict[str, int] = {}
    for index, title in enumerate(table.header):
        name = _KNOWN.get(_plain(title))
        if name is None:
            continue
        if name in found:
            raise AssetError(
                f"{table.path} has two columns of {name}, {table.header[found[name]]!r} and "
                f"{title!r}; remove one"
            )
        found[name] = index
    missing = [name for name in ARKIT_NAMES if name not in found and name != "tongueOut"]
    if len(missing) == len(ARKIT_NAMES) - 1:
        raise AssetError(
            f"{table.path} has no column named like an ARKit blendshape in its first line; "
            f"give a header such as EyeBlinkLeft,...,{ARKIT_NAMES[50]}"
        )
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise AssetError(
            f"{table.path} has no column {', '.join(missing[:4])}{more}; "
            "add what is missing, with zeros where it was not recorded"
        )
    if not table.rows:
        raise AssetError(f"{table.path} has a header and no frame; record it again")
    return found


def _tracked(table: Table, columns: dict[str, int]) -> Table:
    """The table without lines in which the recorder saw no face: all their values are empty."""
    wanted = [columns[name] for name in ARKIT_NAMES if name in columns]
    kept = [k for k, row in enumerate(table.rows) if any(row[column] for column in wanted)]
    if len(kept) == len(table.rows):
        return table
    if not kept:
        raise AssetError(f"{table.path} has no frame with a face; record it again")
    log.warning("%s: %d frames without a face", table.path, len(table.rows) - len(kept))
    rows = tuple(table.rows[k] for k in kept)
    return replace(table, rows=rows, lines=tuple(table.lines[k] for k in kept))


def _head_turn(table: Table, columns: dict[str, int]) -> Float[Tensor, "T 3"]:
    """The head's rotation, axis-angle."""
    angles = torch.zeros(len(table.rows), 3, dtype=torch.float64)
    for axis, name in ((1, "HeadYaw"), (0, "HeadPitch"), (2, "HeadRoll")):
        if name in columns:
            angles[:, axis] = torch.tensor(table.numbers(columns[name]), dtype=torch.float64)
            furthest = float(angles[:, axis].abs().max())
            if furthest > 1.01 * math.pi:
                raise AssetError(
                    f"{table.path} has {name} up to {furthest:.4g}, more than half a turn in "
                    "radians; divide degrees by 57.2958"
                )
    turn = torch.eye(3, dtype=torch.float64)
    for axis in (1, 0, 2):
        turn = turn @ axis_angle_to_matrix(angles * torch.eye(3, dtype=torch.float64)[axis])
    return matrix_to_axis_angle(turn)


def _at(values: Tensor, positions: Tensor) -> Tensor:
    """Rows at fractional indices, linear between."""
    low = positions.floor().long().clamp(0, max(0, len(values) - 2))
    high = (low + 1).clamp_max(len(values) - 1)
    return torch.lerp(values[low], values[high], (positions - low)[:, None])


def _plain(title: str) -> str:
    """A column's title without what programs differ in."""
    plain = re.sub(r"[^a-z0-9]", "", title.lower())
    sided_by_letter = re.fullmatch(r".*[\s_.-]([lr])", title.lower())
    if sided_by_letter:
        plain = plain[:-1] + {"l": "left", "r": "right"}[sided_by_letter[1]]
    return plain
