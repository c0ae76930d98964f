"""The error of every file that is missing, damaged or not what it claims to be."""

from __future__ import annotations


class AssetError(Exception):
    """A file cannot be used; the message says which one, why, and how to mend it."""
