"""Shapes and types in our signatures are checked in every test; threads are few and the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before torch is loaded: its idle threads would spin on the cores that other threads work on.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

PACKAGES = ["assets", "avatar", "flame", "deca", "voice", "diffusion"]

# Before any of our packages is imported: the hook rewrites modules as they load.
install_import_hook(PACKAGES, "beartype.beartype")
# Beside another worker one thread each: more would wait for one another.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from assets.store import official_models

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an accelerator; there is none"))
        for mark in item.iter_markers("weights"):
            wanted = [model for model in official_models() if model.name in mark.args]
            missing = [path for model in wanted for path in model.missing()]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs {missing[0]}"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return Path(__file__).resolve().parent.parent
