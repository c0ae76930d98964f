"""Compiled CPU kernels of pictures in spherical-harmonic light, and of their gradients.

Import this file only inside a function: numba takes a while to load.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# numba reads the types from the kernels' signatures, which are strings

from __future__ import annotations

import functools

import numpy as np

from assets import compiled
from assets.compiled import shading
from flame import sh_face_kernels, sh_pixel_kernels
from flame.sh_face_kernels import (
    AT_ROW,
    COLUMN,
    COUNT,
    KNOWN,
    ROW,
    RUNS,
    START,
    VALUES,
    add_runs,
    gather,
    pass_on,
)
from flame.sh_pixel_kernels import (
    CHUNK,
    COLOUR,
    KEPT,
    light_backward,
    normals_backward,
    shade,
    shade_backward,
    texture_albedo,
    texture_albedo_backward,
    unit_normals,
    vertex_albedo,
    vertex_albedo_backward,
)

# the kernel below contains functions of those files and must be compiled anew when they change
_VERSION = compiled.version_of(sh_face_kernels, sh_pixel_kernels)
kernel = functools.partial(compiled.kernel, built_on=_VERSION)


@shading
def _write(buf, runs, n_runs, image):
    for run in range(n_runs):
        row, column = runs[run, ROW], runs[run, COLUMN]
        first = COLOUR + runs[run, START]
        for i in range(runs[run, COUNT]):
            image[0, row, column + i] = buf[first + i]
            image[1, row, column + i] = buf[first + CHUNK + i]
            image[2, row, column + i] = buf[first + 2 * CHUNK + i]


@shading
def _read(buf, runs, n_runs, image):
    for run in range(n_runs):
        row, column = runs[run, ROW], runs[run, COLUMN]
        first = COLOUR + runs[run, START]
        for i in range(runs[run, COUNT]):
            buf[first + i] = image[0, row, column + i]
            buf[first + CHUNK + i] = image[1, row, column + i]
            buf[first + 2 * CHUNK + i] = image[2, row, column + i]


_SHADED = (
    "i8(f8[:, ::1], i8[:, ::1], i4[:, ::1], i8, i8, {0}[:, ::1], {0}[:, ::1], i8[:, ::1],"
    " {0}[:, :, ::1], {0}[::1], {0}[:, :, ::1], i8, f8[:, ::1], f8[:, ::1], f8[:, ::1],"
    " f8[:, ::1], {0}[:, :, ::1])"
)


def _shaded(
    points,
    faces,
    face_id,
    row_begin,
    row_end,
    normals,
    values,
    value_faces,
    texture,
    look,
    image,
    backward,
    grad_points,
    grad_normals,
    grad_values,
    grad_light,
    grad_texture,
):
    """Draw albedo times light on the covered pixels of some rows; 1 if a face_id is too high.

    values are vertex colours, or UVs where there is a texture. look holds the light's coefficients
    of 1, x, y, z, xy, xz, yz, x² - y², z², the least shading, 1, and the smallest squared normal.

    With `backward` nothing is drawn: image holds the picture's gradients, and those of the points,
    normals, colours or texture, and look's coefficients are added to grad_*. Empty ones of the
    albedo are not wanted. Pixels are visited in order by one thread, so sums repeat bit for bit.
    (Two kernels would take twice as long to compile.)
    """
    slots = np.empty(len(faces), np.int32)
    for f in range(len(faces)):
        slots[f] = -1
    room = min(len(faces), (row_end - row_begin) * face_id.shape[1]) + 1
    seen = np.empty((room, 3), np.int64)
    setups = np.empty((room, 3 * VALUES), look.dtype)
    sums = np.empty((room if backward else 0, 3 * VALUES), np.float64)
    edges = np.empty((3, 3), np.float64)
    runs = np.empty((CHUNK, 5), np.int64)
    buf = np.empty(KEPT, look.dtype)
    state = np.zeros(4, np.int64)
    state[AT_ROW] = row_begin
    while state[AT_ROW] < row_end:
        before = state[KNOWN]
        n = gather(
            state, row_end, face_id, points, faces, normals, values, value_faces,
            slots, seen, setups, edges, runs, buf, look,
        )  # fmt: skip
        if n < 0:
            return 1
        unit_normals(buf, n, look)
        if len(texture) > 0:
            texture_albedo(buf, n, texture, look)
        else:
            vertex_albedo(buf, n)
        if not backward:
            shade(buf, n, look)
            _write(buf, runs, state[RUNS], image)
            continue
        for slot in range(before, state[KNOWN]):
            for k in range(3 * VALUES):
                sums[slot, k] = 0
        _read(buf, runs, state[RUNS], image)
        shade_backward(buf, n, look)
        light_backward(buf, n, look, grad_light)
        normals_backward(buf, n, look)
        if len(texture) > 0:
            texture_albedo_backward(buf, n, texture, look, grad_texture)
        else:
            vertex_albedo_backward(buf, n)
        add_runs(buf, runs, state[RUNS], seen, look, sums)
    if backward:
        pass_on(
            points, faces, normals, values, value_faces, seen, state[KNOWN], sums, edges,
            grad_points, grad_normals, grad_values,
        )  # fmt: skip
    return 0


shaded = kernel(_SHADED.format("f4"), fast=True)(_shaded)


@functools.cache
def shaded_in_double():
    """`shaded` for float64, compiled when it is first asked for."""
    return kernel(_SHADED.format("f8"), fast=True)(_shaded)
