"""Kernels that are compiled on the user's machine, also where it lets nothing be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def test_compiled_kernels_work_where_nothing_can_be_kept(tmp_path, root):
    blocked = tmp_path / "file"
    blocked.write_text("")
    # every folder that numba would try is a file, which stops a superuser as well
    shutil.copytree(
        root / "flame", tmp_path / "flame", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "flame" / "__pycache__").write_text("")
    # the kernels of normals are the ones that compile soonest
    lines = (
        "import logging, torch; logging.basicConfig(format='%(levelname)s %(message)s');"
        "from flame import raster; raster._PATIENCE_S = 0.01;"
        "from flame.normals import vertex_normals;"
        "print(vertex_normals(torch.tensor([[[0., 0, 1], [9, 0, 1], [0, 9, 1]]]),"
        " torch.tensor([[0, 1, 2]])).tolist())"
    )
    folders = dict.fromkeys(["NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"], str(blocked / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**os.environ, **folders, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == str([[[0.0, 0.0, 1.0]] * 3])
    assert done.stderr.count("set NUMBA_CACHE_DIR") == 1
    assert "compiling flame.normal_kernels for this machine, once" in done.stderr
