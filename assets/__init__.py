"""Files on disk: which ones there are, whether they are whole, how they are read and written."""

from __future__ import annotations

from assets.errors import AssetError

__all__ = ["AssetError"]
