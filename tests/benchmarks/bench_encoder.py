"""How fast one picture becomes codes and a mesh, beside the published DECA network, in one run.

`python tests/benchmarks/bench_encoder.py [--quick] [--threads 1 2]` prints milliseconds (the median
after a warm-up) for a public-domain portrait: finding the face, one pass (box -> points -> crop ->
codes -> mesh), its stages, refinement, and the forward pass of DECA's coarse encoder and of both
its encoders. The architecture is exact, its weights are made up, which costs the same time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

# before torch is loaded: its idle threads would spin on the cores that are measured
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from assets.errors import AssetError
from deca.code_net import load_code_net
from deca.detect import detect
from deca.encode import encode_box
from deca.official_crop import official_crop
from deca.official_deca import Deca, DecaConfig, DecaNetworks, used_tensors
from deca.refine import Refiner
from deca.synthetic import random_weights
from flame.load import load_head
from flame.outfit import load_outfit

Work = Callable[[], object]

TARGET_MS = 60.0  # one pass on two cores
REFINE_MS = 6000.0


def portrait() -> torch.Tensor:
    """Eileen Collins, NASA, public domain [1, 3, 512, 512]."""
    data = pytest.importorskip("skimage.data")
    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255


def published(detail: bool) -> Deca:
    """DECA's networks with deterministic weights."""
    config = DecaConfig(detail=detail)
    with torch.device("meta"):
        layout = dict(DecaNetworks(detail).state_dict())
    tensors = random_weights(layout, torch.Generator().manual_seed(0))
    return Deca.of_tensors(used_tensors(tensors, config), "DECA's layout", config)


def works() -> dict[str, Work]:
    """What is timed, by name; all see the same picture."""
    flame = load_head()
    net = load_code_net(flame)
    finder, _ = net.complete()
    image = portrait()
    box = detect(image, net=finder).box
    encoding = encode_box(image, box, flame, net)
    params, points = encoding.codes.params, encoding.landmarks.points68[0]
    refiner = Refiner(flame, net.landmarks.points, load_outfit().albedo)
    crops = torch.rand(2, 3, net.side, net.side, generator=torch.Generator().manual_seed(0))
    crop = official_crop(image, points, "deca").image
    coarse, both = published(False), published(True)

    @torch.no_grad()
    def mesh() -> object:
        return flame(params).verts

    @torch.no_grad()
    def one_pass() -> object:
        return flame(encode_box(image, box, flame, net).codes.params).verts

    @torch.no_grad()
    def network() -> object:
        return net(crops)

    return {
        "find the face": lambda: detect(image, net=finder),
        "one pass": one_pass,
        "  points of the finder": lambda: finder.predict(image, box, passes=2, thorough=False),
        "  network, crop and mirror image": network,
        "  mesh": mesh,
        "refine": lambda: refiner(image, encoding),
        "DECA, coarse encoder": lambda: coarse.encode(crop),
        "DECA, both encoders": lambda: both.encode(crop),
    }


def median_ms(work: Work, seconds: float) -> float:
    """The median of calls for this long, at least three, after one to warm up."""
    work()
    spans, end = [], time.perf_counter() + seconds
    while len(spans) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        spans.append(1e3 * (time.perf_counter() - start))
        if len(spans) >= 3 and spans[-1] > 1e3 * seconds:
            break
    return statistics.median(spans)


def measure(threads: Sequence[int], seconds: float) -> dict[int, dict[str, float]]:
    """Milliseconds by number of threads and work."""
    before, timed = torch.get_num_threads(), works()
    found = {}
    try:
        for count in threads:
            torch.set_num_threads(count)
            found[count] = {name: median_ms(work, seconds) for name, work in timed.items()}
    finally:
        torch.set_num_threads(before)
    return found


def report(found: dict[int, dict[str, float]]) -> str:
    """The figures as a table, and our one pass over DECA's encoder."""
    names = list(next(iter(found.values())))
    wide = max(map(len, names)) + 2
    lines = ["".ljust(wide) + "".join(f"{f'{n} thread' + 's' * (n > 1):>13}" for n in found)]
    for name in names:
        cells = "".join(f"{row[name]:>10.1f} ms" for row in found.values())
        lines.append(name.ljust(wide) + cells)
    for peer in ("DECA, coarse encoder", "DECA, both encoders"):
        ratios = "".join(f"{row[peer] / row['one pass']:>12.2f}x" for row in found.values())
        lines.append(f"{peer} / one pass".ljust(wide) + ratios)
    return "\n".join(lines)


def test_one_pass_on_two_cores_takes_less_than_the_target():
    try:
        found = measure((1, 2), 1.5)
    except AssetError as error:
        pytest.skip(str(error))
    print("\n" + report(found))
    assert found[2]["one pass"] < TARGET_MS
    assert found[2]["refine"] < REFINE_MS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few calls each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print(report(measure(options.threads, 0.2 if options.quick else 3.0)))


if __name__ == "__main__":
    main()
