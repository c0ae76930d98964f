"""The README's Python runs: all of it where it needs no file, its imports everywhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

BLOCKS = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_what_the_readme_imports_is_there(block):
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = __import__(node.module, fromlist=[alias.name for alias in node.names])
        assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_rasterizers_example_moves_a_corner_along_the_area(capsys):
    (block,) = (block for block in BLOCKS if "silhouette" in block)
    named: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), named)
    # half the opposite side: d(area) / dx of a corner
    verts = named["verts"]
    assert float(verts.grad[0, 2, 0]) == pytest.approx(40, rel=0.04)
    assert float(verts.grad[0, 2, 1]) == pytest.approx(0, abs=1e-6)
    assert "torch.Size([1, 3, 128, 128])" in capsys.readouterr().out
