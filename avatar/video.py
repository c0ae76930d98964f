"""Video files: H.264 and AAC in an MP4 that every player and every site takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from assets.errors import AssetError
from assets.files import replacing
from assets.image import AI_SOURCE_TYPE
from voice.audio import SAMPLE_RATE, Audio, resample

AI_COMMENT = (
    f"AI-generated: a synthetic head with synthetic motion. DigitalSourceType: {AI_SOURCE_TYPE}"
)
_AUDIO_RATE = 48_000  # Hz; phones refuse AAC at some of the lower rates
_AUDIO_BLOCK = 1024  # samples of one AAC packet
_ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")
# numbers of ITU-T H.273, which the file's colour tags are
_BT709, _STUDIO_RANGE, _FULL_RANGE = 1, 1, 2
_UNSAID, _BT601 = 2, 5
_HD_HEIGHT = 720  # px; players take untagged pictures from here on for BT.709, smaller for BT.601
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower")


@dataclass(frozen=True)
class VideoConfig:
    """How a video is compressed."""

    crf: int = 17  # 0 keeps everything, 17 to 18 looks the same, 28 is visibly coarse
    preset: str = "faster"  # of x264: slower ones give smaller files
    audio_kbps: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf} is out of range; choose 0 (best) to 51")
        if self.preset not in _PRESETS:
            raise ValueError(f"preset={self.preset!r} is unknown; choose one of {list(_PRESETS)}")
        if not 32 <= self.audio_kbps <= 320:
            raise ValueError(f"audio_kbps={self.audio_kbps} is out of range; choose 32 to 320")


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of a video, upright as players show it."""

    index: int  # among all pictures of the video
    time_s: float
    pixels: UInt8[np.ndarray, "H W 3"]  # sRGB


def read_video(path: Path, *, every: int = 1) -> Iterator[Shot]:
    """Every `every`-th picture of a video, decoded one by one.

    Raises AssetError where the file is no video, or stops being one part of the way through.
    """
    if every < 1:
        raise ValueError(f"every={every}; choose 1 for all pictures of a video, or more")
    if not Path(path).is_file():
        raise AssetError(f"{path} is not there; give the path of a video")
    index = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise AssetError(f"{path} has no picture, only sound; give a video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if index % every == 0:
                    time_s = getattr(frame, "time", None)  # some files give their pictures none
                    if time_s is None:
                        time_s = index / float(stream.average_rate or 25)
                    yield Shot(index, float(time_s), _upright(frame))
                index += 1
    except av.error.FFmpegError as error:
        where = f"breaks off after {index} pictures" if index else "cannot be read as a video"
        raise AssetError(f"{path} {where} ({error}); convert it to MP4 again") from error
    if index == 0:
        raise AssetError(f"{path} holds no picture; give another video")


def write_video(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    rate_hz: float,
    audio: Audio,
    *,
    title: str = "",
    ai_generated: bool = True,
    config: VideoConfig | None = None,
) -> Path:
    """Write frames (sRGB) and one signal as an .mp4, and return its path.

    Frames are taken one by one. Sound shorter than the picture is followed by silence, longer sound
    is cut. The file is written beside and then renamed, with its index first, ready for streaming.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path} does not end in .mp4; only MP4 is written")
    if len(audio.samples) != 1:
        raise ValueError(
            f"a video has one sound track, this Audio has {len(audio.samples)} signals; "
            "pass Audio(samples[i : i + 1])"
        )
    config = config or VideoConfig()
    comment = AI_COMMENT if ai_generated else ""
    options = {"movflags": "+faststart"}
    with (
        replacing(path) as beside,
        av.open(str(beside), "w", format="mp4", options=options) as container,
    ):
        container.metadata.update({"title": title or path.stem, "comment": comment})
        _encode(container, frames, rate_hz, audio, config)
    return path


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    space, span = int(frame.colorspace), int(frame.color_range)
    if space == _UNSAID:
        space = _BT709 if frame.height >= _HD_HEIGHT else _BT601
    pixels = frame.reformat(
        format="rgb24",
        src_colorspace=space,
        src_color_range=span if span == _FULL_RANGE else _STUDIO_RANGE,
        dst_color_range=_FULL_RANGE,
    ).to_ndarray()
    # phones film sideways and say by how much players are to turn, counter-clockwise
    turns = round(getattr(frame, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _encode(
    container: av.container.OutputContainer,
    frames: Iterable[NDArray[np.uint8]],
    rate_hz: float,
    audio: Audio,
    config: VideoConfig,
) -> None:
    """Fill the container, sound beside the picture, so that neither waits in memory."""
    rate = Fraction(rate_hz).limit_denominator(1001)
    picture = sound = None
    end = written = 0  # samples
    samples = resample(audio.samples.detach().float().cpu(), SAMPLE_RATE, _AUDIO_RATE)
    signal = samples[0].clamp(-1, 1).numpy()
    for index, frame in enumerate(frames):
        if picture is None or sound is None:
            picture = _picture_stream(container, frame, rate, config)
            sound = container.add_stream("aac", rate=_AUDIO_RATE, layout="mono")
            sound.bit_rate = config.audio_kbps * 1000
        if frame.shape != (picture.height, picture.width, 3):
            raise ValueError(
                f"frame {index} has shape {frame.shape}, the first had "
                f"{(picture.height, picture.width, 3)}; give frames of one size"
            )
        container.mux(picture.encode(_to_yuv(frame, index, rate)))
        end = round((index + 1) * _AUDIO_RATE / rate)
        while written + _AUDIO_BLOCK <= end:
            container.mux(sound.encode(_block(signal, written, written + _AUDIO_BLOCK)))
            written += _AUDIO_BLOCK
    if picture is None or sound is None:
        raise ValueError("there is no frame to write; give a clip of at least one frame")
    if written < end:
        container.mux(sound.encode(_block(signal, written, end)))
    container.mux(picture.encode(None))
    container.mux(sound.encode(None))


def _picture_stream(
    container: av.container.OutputContainer,
    frame: NDArray[np.uint8],
    rate: Fraction,
    config: VideoConfig,
) -> av.VideoStream:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(
            f"frames are {width}x{height} pixels; H.264 wants even sides, as its colours are kept "
            "at half the resolution"
        )
    encoder = next((name for name in _ENCODERS if name in av.codecs_available), None)
    if encoder is None:
        raise AssetError(
            "this PyAV has no H.264 encoder; install the published wheel with pip install -U av"
        )
    stream = container.add_stream(encoder, rate=rate)
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.gop_size = max(1, round(2 * rate))  # players seek to these
    context.color_range = _STUDIO_RANGE
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    if encoder == "libx264":
        stream.options = {"crf": str(config.crf), "preset": config.preset, "profile": "high"}
    else:
        stream.bit_rate = 6_000_000
    return stream


def _to_yuv(frame: NDArray[np.uint8], index: int, rate: Fraction) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    picture = picture.reformat(
        format="yuv420p",
        src_colorspace=_BT709,
        dst_colorspace=_BT709,
        src_color_range=_FULL_RANGE,
        dst_color_range=_STUDIO_RANGE,
    )
    picture.pts, picture.time_base = index, 1 / rate
    return picture


def _block(signal: NDArray[np.float32], begin: int, end: int) -> av.AudioFrame:
    """Samples begin..end, silent past the end of the signal."""
    piece = signal[begin:end]
    piece = np.pad(piece, (0, end - begin - len(piece)))
    block = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
    block.sample_rate = _AUDIO_RATE
    block.pts, block.time_base = begin, Fraction(1, _AUDIO_RATE)
    return block
