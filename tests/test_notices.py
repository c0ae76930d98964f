"""transformers without torchvision: its notice of that is not heard, and all else is."""

from __future__ import annotations

import logging

import pytest
import transformers
from transformers.utils import import_utils
from transformers.utils import logging as transformers_logging

import diffusion


@pytest.fixture
def heard(monkeypatch):
    """What transformers' own handlers get to print, whichever test loaded it first."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [handler])
    transformers_logging.warning_once.cache_clear()
    return records


def processor():
    """The class as diffusers asks for it, found anew."""
    return type(transformers).__getattr__(transformers, "CLIPImageProcessor")


def test_the_image_processors_come_without_a_word_of_torchvision(heard):
    assert diffusion.__all__ and processor().__name__.startswith("CLIPImageProcessor")
    assert heard == []


def test_the_notice_is_there_to_be_silenced(heard):
    if "CLIPImageProcessor" not in transformers._object_missing_backend:
        pytest.skip("torchvision is installed")
    own = import_utils.logger.filters
    import_utils.logger.filters = []
    try:
        processor()
    finally:
        import_utils.logger.filters = own
    assert len(heard) == 1 and "torchvision" in heard[0]


def test_other_warnings_of_the_same_place_are_heard(heard):
    import_utils.logger.warning("torchvision is too old")
    logging.getLogger("transformers.modeling_utils").warning("some weights were not used")
    assert heard == ["torchvision is too old", "some weights were not used"]
