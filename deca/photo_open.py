"""What a run of training on photos is made of, from the files that its options name."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from assets.errors import AssetError
from assets.store import official_file
from assets.weights import install_weights, read_metadata, read_tensors
from deca.code_net import SHIPPED_ENCODER, load_code_net
from deca.detail_losses import Features, LandmarkFeatures, Vgg19Features
from deca.landmarks import LandmarkNet, load_landmark_net
from deca.official import encoder_of
from deca.official_deca import Deca, DecaConfig
from deca.official_surface import DetailMaps
from deca.photo_faces import CodeNetFace, DecaFace, Face
from deca.photo_start import DetailNetworks, fresh_code_net, fresh_deca, fresh_detail
from flame.load import load_head
from flame.model import Flame
from flame.official import OfficialFlame, load_flame
from flame.outfit import load_outfit
from flame.texture_space import TextureSpace, read_texture_space

log = logging.getLogger(__name__)

_TEXTURES = ("flame/FLAME_albedo_from_BFM.npz", "flame/FLAME_texture.npz")
_VGG19 = ("deca/vgg19-dcbb9e9d.pth",)
_MAPS = ("deca/uv_face_eye_mask.png", "deca/fixed_displacement_256.npy")
_N_TEXTURE = 50


def open_face(
    options: argparse.Namespace, *, pixels: bool, generator: torch.Generator
) -> tuple[Face, bool]:
    """The head with its networks, and whether its encoder is trained already."""
    if options.fresh and options.start is not None:
        raise ValueError("--fresh and --start were both given; leave one out")
    flame = _head(options.head)
    if isinstance(flame, OfficialFlame):
        return _deca_face(options, flame, pixels, generator), options.start is not None
    started = not options.fresh
    if options.fresh:
        net = fresh_code_net(load_landmark_net(flame, options.points), generator=generator)
    else:
        net = load_code_net(flame, options.start and _encoder_file(options.start))
    albedo = load_outfit(options.skin).albedo
    return CodeNetFace(net, flame, albedo, _own_detail(options, generator)), started


def _head(name: str) -> Flame:
    if name == "shipped":
        return load_head()
    if name == "flame":
        return load_flame()
    path = Path(name)
    own = path.with_name(f"{path.name}.index.json").is_file()
    if own or (path.suffix == ".safetensors" and "format" in read_metadata(path)):
        return load_head(path)
    return load_flame(path)


def _deca_face(
    options: argparse.Namespace, flame: OfficialFlame, pixels: bool, generator: torch.Generator
) -> DecaFace:
    texture: TextureSpace | None = None
    placed = [found for name in _TEXTURES if (found := official_file(name)) is not None]
    if options.texture is not None or placed:
        texture = read_texture_space(options.texture or placed[0], n_components=_N_TEXTURE)
    elif pixels or options.stage == "detail":
        raise AssetError(
            f"an official FLAME head has no colours of its own: place {_TEXTURES[0]} or "
            f"{_TEXTURES[1]}, give --texture, or train with --pretrain"
        )
    if options.start is None:
        if options.stage == "detail":
            raise ValueError("detail is trained on top of an encoder; give its file as --start")
        return DecaFace(Deca(fresh_deca(flame, generator=generator), DecaConfig()), flame, texture)
    path = options.start / "deca.safetensors" if options.start.is_dir() else options.start
    encoder = encoder_of(read_tensors(path), str(path))
    if type(encoder) is not Deca:
        raise ValueError(f"{path} holds {encoder.name}; training starts from DECA's own layout")
    return DecaFace(encoder, flame, texture)


def _encoder_file(start: Path) -> Path:
    return start / Path(SHIPPED_ENCODER).name if start.is_dir() else start


def _own_detail(options: argparse.Namespace, generator: torch.Generator) -> DetailNetworks:
    networks = fresh_detail(generator=generator)
    if options.start is not None:
        path = _encoder_file(options.start).with_name("photo_detail.safetensors")
        if path.is_file() or path.with_name(f"{path.name}.index.json").is_file():
            install_weights(networks, read_tensors(path), described=str(path))
    return networks


def load_detail(path: Path) -> DetailNetworks:
    """The detail networks in a `photo_detail.safetensors` of training on photos, ready to use."""
    with torch.random.fork_rng(devices=[]):
        networks = fresh_detail(generator=torch.Generator().manual_seed(0))
    install_weights(networks, read_tensors(path), described=str(path))
    return networks.eval().requires_grad_(False)


def open_look(choice: str, net: LandmarkNet) -> Features:
    """Features of the perceptual loss: VGG-19's where its file is, else the landmark network's."""
    if choice != "auto":
        return Vgg19Features.read(Path(choice))
    for name in _VGG19:
        if (path := official_file(name)) is not None:
            return Vgg19Features.read(path)
    log.warning("%s is not placed: wrinkles are compared in the landmark network", _VGG19[0])
    return LandmarkFeatures(net)


def open_maps(face: Face) -> DetailMaps | None:
    """DECA's own maps of where there is detail, for its head and if they are placed."""
    found = [official_file(name) for name in _MAPS]
    mask, fixed = found
    if not isinstance(face, DecaFace) or mask is None or fixed is None:
        return None
    return DetailMaps.read(mask, fixed)
