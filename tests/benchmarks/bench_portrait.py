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
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from assets.weights import read_metadata, read_tensors, write_tensors

SIDE = 128
# family -> what of a wish it is; values that look alike are one
FAMILIES = (
    *("gender", "age", "skin", "hair", "hair_color", "beard", "glasses", "hat"),
    *("clothes_color", "expression", "turn", "light_level", "background", "style"),
)
_MOODS = {"smiling": "smiling", "laughing": "smiling", "smirking": "smiling",
          "surprised": "surprised", "angry": "angry", "sad": "sad", "worried": "sad",
          "neutral": "neutral"}  # fmt: skip
_SKINS = {"very fair": "fair", "fair": "fair", "olive": "olive", "brown": "brown",
          "dark brown": "dark", "very dark": "dark"}  # fmt: skip
_HAIRS = {
    "strawberry": "red",
    "auburn": "red",
    "light brown": "brown",
    "dark blonde": "blonde",
    "platinum": "blonde",
    "dark brown": "black",
    "silver": "grey",
    "white": "grey",
}
_OPEN = (
    "a woman",
    "a man",
    "portrait of a young person",
    "an old woman",
    "a smiling man",
    "a child",
)
_COLOURLESS = ("pencil", "clay", "neon")
_COLOURED = ("skin", "hair_color", "clothes_color", "light_level")


def label(wish: dict[str, Any], family: str) -> str | None:
    """What a picture of the wish shows of a family; None where it cannot be seen."""
    value = wish[family]
    if wish["style"] in _COLOURLESS and family in _COLOURED:
        return None
    if wish["style"] in ("clay", "neon") and family in ("background", "beard"):
        return None
    if family in ("hair", "hair_color") and (wish["hat"] or wish["hair"] == "none"):
        return "none" if family == "hair" and not wish["hat"] else None
    if family == "expression":
        return _MOODS.get(value)
    if family == "skin":
        return _SKINS[value]
    if family == "hair_color":
        return _HAIRS.get(value, value)
    if family == "clothes_color":
        return None if wish["stripes"] else str(value).removeprefix("dark ").removeprefix("pale ")
    if family == "beard":
        return "beard" if value == "a beard" else ("none" if not value else None)
    if family == "light_level":
        return str(value) or "usual"
    if family == "background":
        return "plain" if value in ("studio", "plain", "gradient", "mottled") else str(value)
    return str(value)


class Classifier(nn.Module):
    """A score for every value of every family."""

    def __init__(self, values: dict[str, list[str]]) -> None:
        super().__init__()
        self.values = values
        widths = (3, 16, 32, 64, 112, 160)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(2560, 192),
                                  nn.ReLU())  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(192, len(v)) for name, v in values.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = self.body(2 * images - 1)
        return {name: head(found) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Tensor) -> list[dict[str, str]]:
        """The likeliest value of each family, of each picture."""
        best = {name: scores.argmax(1).tolist() for name, scores in self(images).items()}
        return [{name: self.values[name][best[name][k]] for name in best}
                for k in range(len(images))]  # fmt: skip


def read_renders(folders: list[Path]) -> tuple[np.ndarray, list[dict[str, Any]], list[int]]:
    """Pictures at 128 pixels, their wishes, and who each shows."""
    pixels, wishes, people = [], [], []
    for folder in folders:
        for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            with Image.open(folder / row["file"]) as image:
                pixels.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)))
            wishes.append(row["wish"])
            people.append(row["person"])
    return np.stack(pixels).transpose(0, 3, 1, 2), wishes, people


def taught(
    pixels: np.ndarray, wishes: list[dict[str, Any]], held: list[bool], minutes: float
) -> tuple[Classifier, dict[str, float]]:
    """The classifier, and the share of each family that it reads right where it was not trained."""
    labels = [{name: label(wish, name) for name in FAMILIES} for wish in wishes]
    values = {name: sorted({str(row[name]) for row in labels if row[name] is not None})
              for name in FAMILIES}  # fmt: skip
    index = {name: {value: k for k, value in enumerate(v)} for name, v in values.items()}
    targets = {
        name: torch.tensor([-1 if row[name] is None else index[name][str(row[name])]
                            for row in labels])
        for name in FAMILIES
    }  # fmt: skip
    net = Classifier(values)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.5e-3, weight_decay=0.02)
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([k for k, out in enumerate(held) if not out])
    start, done, step = time.process_time(), 0.0, 0
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 30) * (1 - done)
        batch = rows[torch.randint(len(rows), (64,), generator=generator)]
        images = torch.from_numpy(pixels[batch.numpy()]).float() / 255
        # generated pictures are smoother and a little off in colour
        gain = 0.94 + 0.12 * torch.rand(64, 3, 1, 1, generator=generator)
        blurred = nn.functional.avg_pool2d(images, 3, 1, 1)
        share = torch.rand(64, 1, 1, 1, generator=generator)
        scores = net(((1 - share) * images + share * blurred) * gain)
        loss = sum(nn.functional.cross_entropy(scores[name], targets[name][batch], ignore_index=-1)
                   for name in FAMILIES)  # fmt: skip
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step, done = step + 1, (time.process_time() - start) / 60 / minutes
    net.eval()
    kept = [k for k, out in enumerate(held) if out]
    seen = [
        one
        for at in range(0, len(kept), 100)
        for one in net.read(torch.from_numpy(pixels[kept[at : at + 100]]).float() / 255)
    ]
    return net, agreement(seen, [labels[k] for k in kept])


def agreement(seen: list[dict[str, str]], told: list[dict[str, str | None]]) -> dict[str, float]:
    """The share of each family's values, where they can be seen, that are seen as told."""
    found = {}
    for name in FAMILIES:
        pairs = [(a[name], b[name]) for a, b in zip(seen, told, strict=True) if b[name] is not None]
        found[name] = round(sum(a == b for a, b in pairs) / max(1, len(pairs)), 3)
    return found


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
    parser.add_argument("--seeds", type=int, default=8, help="of each of twelve prompts")
    parser.add_argument("--minutes", type=float, default=4.0, help="of the classifier's training")
    parser.add_argument("--cfg", type=float, default=None)
    parser.add_argument("--free", action="store_true", help="without heads of ours behind them")
    parser.add_argument("--tries", type=int, help="the usual number by default")
    parser.add_argument("--classifier-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/bench-portrait"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    pixels, wishes, people = read_renders(options.pictures)
    held = [person % 10 == 9 for person in people]
    kept = options.out / "classifier.safetensors"
    if kept.is_file():  # of an earlier call
        told = json.loads(read_metadata(kept)["told"])
        net, ceiling = Classifier(told["values"]).eval(), told["ceiling"]
        net.load_state_dict(read_tensors(kept))
    else:
        net, ceiling = taught(pixels, wishes, held, options.minutes)
        told = {"values": net.values, "ceiling": ceiling}
        tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        write_tensors(tensors, kept, {"told": json.dumps(told)})
    if options.classifier_only:
        return
    print(json.dumps({"classifier on renders": ceiling}), flush=True)
    print(json.dumps(measured(options, net, pixels), indent=1))


def measured(options: argparse.Namespace, net: Classifier, pixels: np.ndarray) -> dict[str, Any]:
    """Everything about the drawn pictures."""
    from avatar.portrait import shipped_portrait
    from deca.detect import detect_all
    from diffusion.shipped_portrait import CFG, STEPS, TRIES

    cfg = CFG if options.cfg is None else options.cfg
    tries = options.tries or TRIES

    def drawing(words: str, seed: int) -> Tensor:
        """One picture as a user gets it."""
        return shipped_portrait(words, seed, tries=tries, layout=not options.free, cfg=cfg)

    told = new_wishes(options.prompts, 20_261)
    prompts = [full_caption(wish) for wish in told]
    started = time.perf_counter()
    large = torch.cat([drawing(words, k) for k, words in enumerate(prompts)])
    took = (time.perf_counter() - started) / len(prompts)
    labels = [{name: label(wish, name) for name in FAMILIES} for wish in told]
    drawn = nn.functional.interpolate(large, (SIDE, SIDE), mode="area")
    accuracy = agreement(net.read(drawn), labels)
    faces = [len(detect_all(large[k : k + 1])) for k in range(len(large))]
    drawings = [wish["style"] in _COLOURLESS for wish in told]
    one = [count == 1 for count in faces]
    codes = [_reconstructs(large[k : k + 1]) for k in range(len(large))]
    train = small(torch.from_numpy(pixels[:4000]).float() / 255)
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
