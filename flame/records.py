"""Frozen dataclasses of tensors that move and index as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch

_Change = Callable[[torch.Tensor], torch.Tensor]
Record = TypeVar("Record", bound="TensorRecord")


class TensorRecord:
    """Base of frozen dataclasses whose fields are tensors, records of tensors, or plain values."""

    def to(self: Record, device: torch.device | str) -> Record:
        """The same record with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def __getitem__(self: Record, index: int | slice) -> Record:
        """The batch item or items at `index`; an integer keeps the batch axis with length 1."""
        if isinstance(index, int):
            # -1 would make slice(-1, 0), which is empty
            index = slice(index, index + 1 or None)
        return self._map(lambda tensor: tensor[index])

    def _map(self: Record, change: _Change) -> Record:
        changed: dict[str, torch.Tensor | TensorRecord] = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                changed[field.name] = change(value)
            elif isinstance(value, TensorRecord):
                changed[field.name] = value._map(change)
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]
