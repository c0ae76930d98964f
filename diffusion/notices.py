"""The one notice of transformers that says nothing to its reader, kept from the terminal."""

from __future__ import annotations

import logging

# diffusers asks for the names that torchvision would serve; Pillow serves them here as well
_SOURCE = "transformers.utils.import_utils"
_NOTICE = "requires torchvision (not installed); falling back to"


def without_torchvision_notice() -> None:
    """From now on transformers no longer warns that its image processors work without torchvision.

    Whatever else it warns of is heard as before. It need not be imported yet.
    """
    logging.getLogger(_SOURCE).addFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    return _NOTICE not in record.getMessage()
