"""How well the shipped portrait model draws what prompts say, measured on prompts it never saw.

`python tests/benchmarks/bench_portrait.py --pictures DIR [DIR ...]` takes folders that
`deca.synth_captioned` wrote, trains a small classifier of attributes on most of their pictures,
draws new combinations of attributes, and prints JSON: the share of each family of attributes that
the classifier reads as the prompt has it, beside the share that it reads right on renders that it
was not trained on (what it would say of a perfect model); how many pictures have exactly one face,
and how many reconstruct; diversity over seeds; distance to the nearest training picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from portrait_classifier import (
    COLOURLESS,
    FAMILIES,
    Classifier,
    Looks,
    agreement,
    label,
    read_renders,
    taught,
)
from torch import Tensor, nn

from assets.image import read_image, write_image
from assets.weights import read_metadata, read_tensors, write_tensors

_OPEN = (
    "a woman",
    "a man",
    "portrait of a young person",
    "an old woman",
    "a smiling man",
    "a child",
)


def new_wishes(count: int, seed: int) -> list[dict[str, Any]]:
    """Combinations drawn as in training, of other numbers; all fields settled."""
    from deca.prompt_wish import STYLES
    from deca.synth_sitter import settle
    from deca.synth_wishes import draw_person, draw_take

    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        wish = draw_take(draw_person(rng), rng)
        style = "realistic" if number % 2 else STYLES[(number // 2) % len(STYLES)]
        made.append(dataclasses.asdict(settle(dataclasses.replace(wish, style=style), rng)))
    return made


def full_caption(wish: dict[str, Any]) -> str:
    """Everything that is measured, said."""
    from deca.prompt_wish import Wish
    from deca.synth_captions import draw_caption

    made = Wish(**{**wish, "sliders": ()})
    # the longest of several: whether a calm face is called so is drawn by chance
    told = (draw_caption(made, np.random.default_rng(k), keep=1.0) for k in range(12))
    return max(told, key=len)


def distances(features: Tensor, others: Tensor) -> Tensor:
    """Root mean square differences of small pictures [A, B]."""
    return torch.cdist(features, others) / features.shape[1] ** 0.5


def small(images: Tensor) -> Tensor:
    """Colours of 16 x 16 blocks and their edges at 32: layout and shape, not pixels."""
    coarse = nn.functional.adaptive_avg_pool2d(images, 16).flatten(1)
    finer = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 48)
    edges = torch.cat([finer.diff(dim=-1).flatten(1), finer.diff(dim=-2).flatten(1)], 1)
    return torch.cat([coarse, 2 * edges], 1)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True)
    parser.add_argument("--prompts", type=int, default=72)
    parser.add_argument("--seed", type=int, default=20_261, help="of the prompts")
    parser.add_argument("--seeds", type=int, default=8, help="of each of twelve prompts")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the classifier's training")
    parser.add_argument("--cfg", type=float, default=None)
    parser.add_argument("--free", action="store_true", help="without heads of ours behind them")
    parser.add_argument("--tries", type=int, help="the usual number by default")
    parser.add_argument("--classifier-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/bench-portrait"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    looks, wishes, people = read_renders(options.pictures, options.out / "looks.npz")
    kept = options.out / "classifier.safetensors"
    if kept.is_file():  # of an earlier call
        told = json.loads(read_metadata(kept)["told"])
        net, ceiling = Classifier(told["values"], looks.told.shape[1]).eval(), told["ceiling"]
        net.load_state_dict(read_tensors(kept))
    else:
        net, ceiling = taught(looks, wishes, people, options.minutes)
        told = {"values": net.values, "ceiling": ceiling}
        tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        write_tensors(tensors, kept, {"told": json.dumps(told)})
    if options.classifier_only:
        return
    print(json.dumps({"classifier on renders": ceiling}), flush=True)
    print(json.dumps(measured(options, net, looks), indent=1))


def measured(options: argparse.Namespace, net: Classifier, renders: Looks) -> dict[str, Any]:
    """Everything about the drawn pictures."""
    from avatar.portrait import shipped_portrait
    from deca.detect import detect_all
    from diffusion.shipped_portrait import CFG, STEPS, TRIES

    cfg = CFG if options.cfg is None else options.cfg
    tries = options.tries or TRIES

    def drawing(words: str, seed: int) -> Tensor:
        """One picture as a user gets it; those of an earlier call are kept."""
        told = f"{words}|{seed}|{cfg}|{tries}|{options.free}"
        kept = options.out / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.png"
        if not kept.is_file():
            made = shipped_portrait(words, seed, tries=tries, layout=not options.free, cfg=cfg)
            write_image(kept, made)
            fresh.append(kept)
        return read_image(kept)

    told = new_wishes(options.prompts, options.seed)
    prompts = [full_caption(wish) for wish in told]
    fresh: list[Path] = []
    started = time.perf_counter()
    large = torch.cat([drawing(words, k) for k, words in enumerate(prompts)])
    took = (time.perf_counter() - started) / max(1, len(fresh))
    labels = [{name: label(wish, name) for name in FAMILIES} for wish in told]
    looks = Looks.of(large.split(1))
    drawn = looks.small
    accuracy = agreement(net.read(looks), labels)
    faces = [len(detect_all(large[k : k + 1])) for k in range(len(large))]
    drawings = [wish["style"] in COLOURLESS for wish in told]
    one = [count == 1 for count in faces]
    codes = [_reconstructs(large[k : k + 1]) for k in range(len(large))]
    train = small(renders.small[:4000])
    generator = torch.Generator().manual_seed(0)
    sample = torch.randperm(len(train), generator=generator)[:200]
    spread = float(distances(train[sample], train[sample]).sum() / (200 * 199))
    within = distances(train[sample], train)
    within.scatter_(1, sample[:, None], torch.inf)
    to_train = distances(small(drawn), train).amin(1)

    def alike(words: str) -> float:
        """How far pictures of one prompt are apart on average."""
        seen = small(torch.cat([drawing(words, k) for k in range(options.seeds)]))
        return float(distances(seen, seen).sum() / (len(seen) * (len(seen) - 1)))

    across = distances(small(drawn), small(drawn))
    _grid(large, prompts, options.out)
    share = np.mean
    return {
        "prompts": len(prompts), "cfg": cfg, "steps": STEPS, "tries": tries,
        "on heads of ours": not options.free,
        "seconds a picture": round(took, 2),
        "attributes": accuracy, "attributes, mean": round(float(share(list(accuracy.values()))), 3),
        "exactly one face": round(float(share(one)), 3),
        "exactly one face, but for pencil, clay and neon": round(
            float(share([a for a, b in zip(one, drawings, strict=True) if not b])), 3),
        "reconstructs": round(float(share(codes)), 3),
        "reconstructs, but for pencil, clay and neon": round(
            float(share([a for a, b in zip(codes, drawings, strict=True) if not b])), 3),
        "diversity over seeds of prompts that leave much open / of renders": round(
            float(share([alike(words) for words in _OPEN])) / spread, 3),
        "diversity over seeds of prompts that say everything / of renders": round(
            float(share([alike(words) for words in prompts[1:12:2]])) / spread, 3),
        "diversity over prompts / of renders": round(
            float(across.sum()) / (len(drawn) * (len(drawn) - 1)) / spread, 3),
        "nearest training picture / nearest within training": round(
            float(to_train.median() / within.amin(1).median()), 3),
    }  # fmt: skip


def _reconstructs(image: Tensor) -> bool:
    """Whether the shipped encoder finds a face and makes finite codes of it."""
    from deca.code_net import load_code_net
    from deca.encode import encode
    from deca.portrait import Portrait
    from flame.load import load_head

    flame = load_head()
    try:
        codes = encode(Portrait(image, "drawn", ""), flame, load_code_net(flame)).codes
    except ValueError:  # no face, or several
        return False
    found = [value for part in (codes.params, codes.camera) for value in vars(part).values()]
    return all(bool(torch.isfinite(value).all()) for value in found)


def _grid(images: Tensor, prompts: list[str], folder: Path) -> None:
    from diffusion.train_files import write_sheet

    write_sheet(folder / "grid.png", [images[k : k + 9] for k in range(0, len(images) - 8, 9)])
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
