"""What a long command is doing, and what each stage cost in time and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Stage:
    """One finished stage; memory is the most that the process held during it."""

    name: str
    seconds: float
    peak_mb: float | None  # None where the system does not tell


@runtime_checkable
class Stream(Protocol):
    """What is asked of the stream that progress is written to."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


class Progress:
    """Reports stages to a stream as they run, and remembers what they cost.

    Without a stream it only measures. On a terminal `step` redraws one line; elsewhere, as in a
    log, each stage is one line.
    """

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream
        self._redraws = stream is not None and stream.isatty()
        self._stages: list[Stage] = []
        self._warnings: list[str] = []
        self._current = ""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The finished stages, in order."""
        return tuple(self._stages)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user was warned of."""
        return tuple(self._warnings)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a block; a block that raises is not remembered."""
        self._current = name
        _reset_peak()
        if self._redraws:
            self._write(f"\r\x1b[K{name} ...")
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            if self._redraws:
                self._write("\n")
            raise
        stage = Stage(name, time.perf_counter() - start, _peak_mb())
        self._stages.append(stage)
        memory = "" if stage.peak_mb is None else f"  {stage.peak_mb:6.0f} MB"
        clear = "\r\x1b[K" if self._redraws else ""
        self._write(f"{clear}{name:<32} {stage.seconds:6.1f} s{memory}\n")

    def step(self, done: int, total: int) -> None:
        """Say how far the running stage is; only terminals show it."""
        if self._redraws:
            self._write(f"\r\x1b[K{self._current} ... {done}/{total}")

    def note(self, message: str) -> None:
        """A line between stages."""
        self._write(("\r\x1b[K" if self._redraws else "") + message + "\n")

    def warn(self, message: str) -> None:
        """A line that the avatar's manifest keeps as well."""
        self._warnings.append(message)
        self.note(f"warning: {message}")

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()


def _reset_peak() -> None:
    """Let the kernel's high-water mark start anew, where it can: Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peaks are those since the start of the process


def _peak_mb() -> float | None:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
