"""diffusers and transformers while they load: no bars on the terminal, no gaps passed over."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from assets.errors import AssetError

_LOADING = threading.RLock()  # the libraries' loggers and bars are one for the whole process
_GAPS = re.compile(r"newly initialized|\bMISSING\b|MISMATCH", re.IGNORECASE)


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def loading(described: str, *, whole: bool = True) -> Iterator[list[str]]:
    """Collect what the two libraries warn of; weights that a file lacks are an error at the end.

    The libraries would fill such weights at random and go on, and the pictures would be noise.
    An adapter is not `whole`: what it leaves alone is reported as lacking too.
    """
    loggers = [logging.getLogger("diffusers"), logging.getLogger("transformers")]
    kept = _Kept()
    with _LOADING:
        before = [(logger.handlers, logger.propagate) for logger in loggers]
        bars = diffusers_logging.is_progress_bar_enabled()
        diffusers_logging.disable_progress_bar()
        transformers_bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        for logger in loggers:
            logger.handlers, logger.propagate = [kept], False
        try:
            with warnings.catch_warnings():
                # peft's notice that a second adapter is added, which is what is wanted
                warnings.filterwarnings("ignore", "Already found a `peft_config`")
                yield kept.messages
        finally:
            for logger, (handlers, propagate) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
            if bars:
                diffusers_logging.enable_progress_bar()
            if transformers_bars:
                transformers_logging.enable_progress_bar()
    gaps = [message for message in kept.messages if _GAPS.search(message)]
    if gaps and whole:
        raise AssetError(
            f"{described} lacks weights that its settings ask for ({in_one_line(gaps[0])}); "
            "fetch the whole model again"
        )


def in_one_line(text: object, longest: int = 240) -> str:
    """The text without line breaks, colours or anything else that does not print, cut short."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(text))
    plain = "".join(c if c.isprintable() else " " for c in plain)
    return " ".join(plain.split())[:longest]
