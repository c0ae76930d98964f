"""A reader of GLB files that knows the glTF 2.0 specification alone."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flame.head import Head

_COMPONENTS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_SHAPES = {"SCALAR": (), "VEC2": (2,), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}


class Glb:
    """A reader written from the glTF 2.0 specification alone."""

    def __init__(self, content: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", content)
        assert (magic, version, length) == (b"glTF", 2, len(content))
        json_length, json_kind = struct.unpack_from("<I4s", content, 12)
        blob_length, blob_kind = struct.unpack_from("<I4s", content, 20 + json_length)
        assert (json_kind, blob_kind) == (b"JSON", b"BIN\0")
        assert length == 28 + json_length + blob_length
        assert json_length % 4 == blob_length % 4 == 0
        self.document = json.loads(content[20 : 20 + json_length])
        self.blob = content[28 + json_length :]

    def __getitem__(self, name: str) -> Any:
        return self.document[name]

    def view(self, index: int) -> bytes:
        view = self["bufferViews"][index]
        assert view["byteOffset"] % 4 == 0
        return self.blob[view["byteOffset"] :][: view["byteLength"]]

    def accessor(self, index: int) -> NDArray[Any]:
        accessor = self["accessors"][index]
        shape = (accessor["count"], *_SHAPES[accessor["type"]])
        kind = _COMPONENTS[accessor["componentType"]]
        array = np.zeros(shape, kind)
        if "bufferView" in accessor:
            array[:] = np.frombuffer(self.view(accessor["bufferView"]), kind).reshape(shape)
        if "sparse" in accessor:
            count, rows, values = (
                accessor["sparse"][key] for key in ("count", "indices", "values")
            )
            row_kind = _COMPONENTS[rows["componentType"]]
            where = np.frombuffer(
                self.view(rows["bufferView"]), row_kind, count, rows["byteOffset"]
            )
            assert (np.diff(where.astype(int)) > 0).all()
            found = np.frombuffer(
                self.view(values["bufferView"]), kind, count * shape[1], values["byteOffset"]
            )
            array[where] = found.reshape(count, shape[1])
        if "min" in accessor:
            flat = array.reshape(len(array), -1)
            assert accessor["min"] == flat.min(0).tolist()
            assert accessor["max"] == flat.max(0).tolist()
        return array

    def mesh(self, name: str) -> Any:
        return next(mesh for mesh in self["meshes"] if mesh["name"] == name)

    def attribute(self, mesh: str, name: str) -> NDArray[Any]:
        return self.accessor(self.mesh(mesh)["primitives"][0]["attributes"][name])

    def targets(self, mesh: str, name: str) -> NDArray[Any]:
        targets = self.mesh(mesh)["primitives"][0]["targets"]
        return np.stack([self.accessor(target[name]) for target in targets])

    def image(self, texture: Any) -> NDArray[Any]:
        image = self["images"][self["textures"][texture["index"]]["source"]]
        picture = Image.open(io.BytesIO(self.view(image["bufferView"])))
        assert picture.get_format_mimetype() == image["mimeType"]
        return np.array(picture)

    def skinned(self, mesh: str, weights: NDArray[Any], key: int) -> NDArray[Any]:
        """The mesh under morph weights and the first clip's rotations at one of its keys."""
        rotations = {}
        for channel in self["animations"][0]["channels"]:
            sampler = self["animations"][0]["samplers"][channel["sampler"]]
            if channel["target"]["path"] == "rotation":
                rotations[channel["target"]["node"]] = self.accessor(sampler["output"])[key]
        world: dict[int, NDArray[Any]] = {}

        def visit(index: int, parent: NDArray[Any]) -> None:
            local = np.eye(4)
            local[:3, :3] = _matrix(rotations.get(index, np.array([0, 0, 0, 1])))
            local[:3, 3] = self["nodes"][index].get("translation", [0, 0, 0])
            world[index] = parent @ local
            for child in self["nodes"][index].get("children", []):
                visit(child, world[index])

        for root in self["scenes"][0]["nodes"]:
            visit(root, np.eye(4))
        skin = self["skins"][0]
        # matrices are stored column by column
        binds = self.accessor(skin["inverseBindMatrices"]).transpose(0, 2, 1)
        joints = np.stack([world[node] for node in skin["joints"]]) @ binds
        points = self.attribute(mesh, "POSITION").astype(float)
        if "targets" in self.mesh(mesh)["primitives"][0]:
            points += np.einsum("m,mvk->vk", weights, self.targets(mesh, "POSITION"))
        influences = joints[self.attribute(mesh, "JOINTS_0")]  # [N, 4, 4, 4]
        blend = np.einsum("vi,vijk->vjk", self.attribute(mesh, "WEIGHTS_0"), influences)
        return np.einsum("vjk,vk->vj", blend, np.c_[points, np.ones(len(points))])[:, :3]


def _matrix(quaternion: NDArray[Any]) -> NDArray[Any]:
    """The rotation that v -> q v q* makes, written out."""
    x, y, z, w = quaternion.astype(float)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def source_of(glb: Glb, mesh: str, head: Head) -> list[int]:
    """The head's vertex of each exported one, found by position alone."""
    points = glb.attribute(mesh, "POSITION")
    distance = np.abs(points[:, None] - head.verts.numpy()[None]).max(-1)
    assert (np.sort(distance, axis=1)[:, 1] > 0).all()
    assert (distance.min(axis=1) == 0).all()
    return distance.argmin(axis=1).tolist()
