"""A classifier of what portraits show, trained on renders: the judge of `bench_portrait`.

One network sees each picture small and whole, another what the shipped encoder makes of the face
in it; how far each is to be trusted with a family is found on renders that neither was trained on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from assets.image import read_image
from deca.code_net import CODE_VIEW, CodeNet, load_code_net
from deca.crop import crop_square
from deca.encode import face_points
from deca.landmarks import crop_of
from flame.load import load_head

SIDE = 128  # px of a picture that is seen whole
_LARGE = 256  # of one whose face is looked at
_FACE = torch.tensor([50.0, 50.0, 206.0, 222.0])  # where faces are in it
_COARSE = 24  # colours of so many squares each way are told as they are
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
COLOURLESS = ("pencil", "clay", "neon")
_COLOURED = ("skin", "hair_color", "clothes_color", "light_level")


def label(wish: dict[str, Any], family: str) -> str | None:
    """What a picture of the wish shows of a family; None where it cannot be seen."""
    value = wish[family]
    if wish["style"] in COLOURLESS and family in _COLOURED:
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
        return None if wish["stripes"] else str(value).split()[-1]  # pale, dark or not
    if family == "beard":
        return "beard" if value == "a beard" else ("none" if not value else None)
    if family == "light_level":
        return str(value) or "usual"
    if family == "background":
        return "plain" if value in ("studio", "plain", "gradient", "mottled") else str(value)
    return str(value)


@dataclass(frozen=True, eq=False)
class Looks:
    """What the classifier is shown of N pictures."""

    small: Float[Tensor, "N 3 S S"]
    told: Float[Tensor, "N F"]  # colours of squares, and what the encoder makes of the face

    @classmethod
    @torch.no_grad()
    def of(cls, images: Sequence[Float[Tensor, "1 3 H W"]]) -> Looks:
        """Pictures of any size, framed as `deca.synth_captioned` does."""
        net = _encoder()
        finder, _ = net.complete()
        small, told = [], []
        for image in images:
            large = nn.functional.interpolate(image, (_LARGE, _LARGE), mode="area")
            found = face_points(large, _FACE, finder, roll_rad=0.0)
            center, side, roll = crop_of(torch.cat([found.points68, found.points], dim=1)[0])
            face = crop_square(large, center, CODE_VIEW * side, net.side, roll).image
            features = net.landmarks.backbone(face * 2 - 1)
            answer = net.read(features, face)
            squares = nn.functional.adaptive_avg_pool2d(large, _COARSE)
            parts = (net.trunk(features), answer.shape, answer.weights, answer.rotation,
                     answer.albedo, answer.light, 4 * squares - 2)  # fmt: skip
            told.append(torch.cat([part.flatten() for part in parts]))
            small.append(nn.functional.interpolate(large, (SIDE, SIDE), mode="area")[0])
        return cls(torch.stack(small), torch.stack(told))

    def __getitem__(self, rows: slice | Tensor) -> Looks:
        return Looks(self.small[rows], self.told[rows])

    def __len__(self) -> int:
        return len(self.small)


@lru_cache(maxsize=1)
def _encoder() -> CodeNet:
    return load_code_net(load_head())


class _Residual(nn.Module):
    """Two convolutions beside a shorter way, at half the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.long = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.long(x) + self.short(x))


class Classifier(nn.Module):
    """A score for every value of every family: of two networks, which see different things."""

    mean: Tensor
    deviation: Tensor
    trust: Tensor  # of each network's scores, by family

    def __init__(self, values: dict[str, list[str]], told: int) -> None:
        super().__init__()
        self.values = values
        widths = (24, 48, 96, 144, 192)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, 2, 2), nn.ReLU()]
        layers += [_Residual(before, after) for before, after in pairwise(widths)]
        cells = (SIDE // 32) ** 2  # where something is seen is kept
        count = sum(len(each) for each in values.values())
        self.whole = nn.Sequential(
            *layers, nn.Conv2d(widths[-1], 64, 1), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(64 * cells, 320), nn.ReLU(), nn.Linear(320, count),
        )  # fmt: skip
        self.told = nn.Sequential(nn.Dropout(0.4), nn.Linear(told, 256), nn.ReLU(),
                                  nn.Dropout(0.4), nn.Linear(256, count))  # fmt: skip
        self.register_buffer("mean", torch.zeros(told))
        self.register_buffer("deviation", torch.ones(told))
        self.register_buffer("trust", torch.ones(2, len(values)))

    def both(self, looks: Looks) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]]:
        """What each network says of the values of all families, one family after another."""
        told = ((looks.told - self.mean) / self.deviation).clamp(-5, 5)
        return self.whole(2 * looks.small - 1), self.told(told)

    def by_family(self, scores: Float[Tensor, "N V"]) -> dict[str, Tensor]:
        """The scores of each family's values."""
        parts = scores.split([len(each) for each in self.values.values()], dim=1)
        return dict(zip(self.values, parts, strict=True))

    def weighed(
        self, whole: Float[Tensor, "N V"], told: Float[Tensor, "N V"], trust: Float[Tensor, "2 F"]
    ) -> dict[str, Tensor]:
        """The two networks' scores as one, by family."""
        counts = torch.tensor([len(each) for each in self.values.values()])
        shares = trust.repeat_interleave(counts, dim=1)
        return self.by_family(shares[0] * whole + shares[1] * told)

    def forward(self, looks: Looks) -> dict[str, Tensor]:
        return self.weighed(*self.both(looks), self.trust)

    @torch.no_grad()
    def read(self, looks: Looks) -> list[dict[str, str]]:
        """The likeliest value of each family, of each picture."""
        found = []
        for at in range(0, len(looks), 100):
            scores = self(looks[at : at + 100])
            best = {name: each.argmax(1).tolist() for name, each in scores.items()}
            found += [{name: self.values[name][each[k]] for name, each in best.items()}
                      for k in range(len(looks[at : at + 100]))]  # fmt: skip
        return found


def read_renders(
    folders: Sequence[Path], kept: Path
) -> tuple[Looks, list[dict[str, Any]], list[int]]:
    """Pictures, their wishes, and who each shows; what was looked at lies in `kept`, a file."""
    files, wishes, people = [], [], []
    for folder in folders:
        for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            files.append(folder / row["file"])
            wishes.append(row["wish"])
            people.append(row["person"])
    if kept.is_file():
        with np.load(kept) as found:
            small, told = torch.from_numpy(found["small"]), torch.from_numpy(found["told"])
        return Looks(small.float() / 255, told), wishes, people
    parts = [Looks.of([read_image(file)]) for file in files]
    looks = Looks(torch.cat([x.small for x in parts]), torch.cat([x.told for x in parts]))
    np.savez(kept, small=(255 * looks.small).round().byte().numpy(), told=looks.told.numpy())
    return looks, wishes, people


def taught(
    looks: Looks, wishes: list[dict[str, Any]], people: list[int], minutes: float
) -> tuple[Classifier, dict[str, float]]:
    """The classifier, and the share of each family that it reads right where it was not trained.

    Of ten people eight are learnt from, one says how far to trust which network, one is the test.
    """
    labels = [{name: label(wish, name) for name in FAMILIES} for wish in wishes]
    values = {name: sorted({str(row[name]) for row in labels if row[name] is not None})
              for name in FAMILIES}  # fmt: skip
    index = {name: {value: k for k, value in enumerate(v)} for name, v in values.items()}
    targets = {
        name: torch.tensor([-1 if row[name] is None else index[name][str(row[name])]
                            for row in labels])
        for name in FAMILIES
    }  # fmt: skip
    fold = torch.tensor(people) % 10
    rows, weighing, kept = (part.nonzero()[:, 0] for part in (fold < 8, fold == 8, fold == 9))
    fast = torch.channels_last  # half as slow on CPUs
    net = Classifier(values, looks.told.shape[1]).to(memory_format=fast)
    deviation, mean = torch.std_mean(looks.told[rows], dim=0)
    net.mean.copy_(mean)
    net.deviation.copy_(deviation.clamp(min=1e-3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.5e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    start, done, step = time.process_time(), 0.0, 0
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 30) * (1 - done)
        batch = rows[torch.randint(len(rows), (64,), generator=generator)]
        seen = looks[batch]
        noise = 0.3 * net.deviation * torch.randn(seen.told.shape, generator=generator)
        wanted = {name: target[batch] for name, target in targets.items()}
        small = _seen_otherwise(seen.small, generator).contiguous(memory_format=fast)
        with torch.autocast("cpu", torch.bfloat16):
            whole, told = net.both(Looks(small, seen.told + noise))
        loss = _wrong(net.by_family(whole.float()), wanted)
        loss = loss + _wrong(net.by_family(told.float()), wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step, done = step + 1, (time.process_time() - start) / 60 / minutes
        if step % 100 == 0:
            print(f"step {step}, {100 * done:.0f} %: loss {float(loss.detach()):.3f}", flush=True)
    net.eval()
    _weigh(net, looks[weighing], {name: target[weighing] for name, target in targets.items()})
    return net, agreement(net.read(looks[kept]), [labels[k] for k in kept.tolist()])


def _wrong(scores: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """The sum of all families' cross entropies."""
    return sum(
        (nn.functional.cross_entropy(scores[name], wanted[name], ignore_index=-1)
         for name in scores), torch.zeros(()),
    )  # fmt: skip


def _weigh(net: Classifier, looks: Looks, wanted: dict[str, Tensor]) -> None:
    """Find how far each network's scores are to be trusted, on pictures it was not trained on."""
    with torch.no_grad():
        parts = [net.both(looks[at : at + 100]) for at in range(0, len(looks), 100)]
        whole, told = (torch.cat(part) for part in zip(*parts, strict=True))
    logarithm = net.trust.log().requires_grad_()
    optimizer = torch.optim.Adam([logarithm], lr=0.05)
    for _ in range(400):
        loss = _wrong(net.weighed(whole, told, logarithm.exp()), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.trust.copy_(logarithm.detach().exp())


def _seen_otherwise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures a little larger, moved, smoother and off in colour, as drawn ones are."""
    count = len(images)

    def within(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    place = torch.zeros(count, 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = within(0.93, 1.03)
    place[:, :, 2] = within(-0.05, 0.05, 2)
    grid = nn.functional.affine_grid(place, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    blurred = nn.functional.avg_pool2d(moved, 3, 1, 1)
    share = within(0, 1, 1, 1, 1)
    return ((1 - share) * moved + share * blurred) * within(0.94, 1.06, 3, 1, 1)


def agreement(seen: list[dict[str, str]], told: list[dict[str, str | None]]) -> dict[str, float]:
    """The share of each family's values, where they can be seen, that are seen as told."""
    found = {}
    for name in FAMILIES:
        pairs = [(a[name], b[name]) for a, b in zip(seen, told, strict=True) if b[name] is not None]
        found[name] = round(sum(a == b for a, b in pairs) / max(1, len(pairs)), 3)
    return found
