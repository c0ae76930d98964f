"""The networks of StarGANv2-VC in PaddlePaddle, with the port's names: a second implementation.

Needs the `paddlepaddle` wheel. `python tests/paddle_voice.py` writes tests/golden/paddle again.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

GOLDEN = Path(__file__).resolve().parent / "golden" / "paddle"
DIM, MAX, STYLE, LATENT, DOMAINS, PITCH = 2, 4, 3, 3, 2, 4  # sizes of the golden files
CHANNELS, HIDDEN = (2, 2, 3, PITCH), 2
STEPS = {"none": None, "freq": (2, 1), "half": (2, 2)}


class Res(nn.Layer):
    def __init__(self, a, b, down="none", norm=False):
        super().__init__()
        self.step, self.norm = STEPS[down], norm
        self.conv1, self.conv2 = nn.Conv2D(a, a, 3, padding=1), nn.Conv2D(a, b, 3, padding=1)
        if norm:
            self.norm1, self.norm2 = nn.InstanceNorm2D(a), nn.InstanceNorm2D(a)
        if a != b:
            self.conv1x1 = nn.Conv2D(a, b, 1, bias_attr=False)
        self.learned = a != b

    def forward(self, x):
        def down(y):
            return y if self.step is None else F.avg_pool2d(y, self.step)

        short = down(self.conv1x1(x) if self.learned else x)
        y = self.norm1(x) if self.norm else x
        y = down(self.conv1(F.leaky_relu(y, 0.2)))
        y = self.norm2(y) if self.norm else y
        return (short + self.conv2(F.leaky_relu(y, 0.2))) / math.sqrt(2)


class Ada(nn.Layer):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.InstanceNorm2D(channels, weight_attr=False, bias_attr=False)
        self.fc = nn.Linear(STYLE, 2 * channels)

    def forward(self, x, s):
        h = self.fc(s).unsqueeze(-1).unsqueeze(-1)
        gamma, beta = paddle.chunk(h, 2, axis=1)
        return (1 + gamma) * self.norm(x) + beta


class AdaRes(nn.Layer):
    def __init__(self, a, b, up="none"):
        super().__init__()
        self.step = STEPS[up]
        self.conv1, self.conv2 = nn.Conv2D(a, b, 3, padding=1), nn.Conv2D(b, b, 3, padding=1)
        self.norm1, self.norm2 = Ada(a), Ada(b)
        if a != b:
            self.conv1x1 = nn.Conv2D(a, b, 1, bias_attr=False)
        self.learned = a != b

    def forward(self, x, s):
        def up(y):
            if self.step is None:
                return y
            size = [y.shape[2] * self.step[0], y.shape[3] * self.step[1]]
            return F.interpolate(y, size=size, mode="nearest")

        short = up(x)
        short = self.conv1x1(short) if self.learned else short
        y = self.conv1(up(F.leaky_relu(self.norm1(x, s), 0.2)))
        return (short + self.conv2(F.leaky_relu(self.norm2(y, s), 0.2))) / math.sqrt(2)


class Generator(nn.Layer):
    def __init__(self):
        super().__init__()
        both = MAX + PITCH // 2
        self.stem = nn.Conv2D(1, DIM, 3, padding=1)
        downs = [(DIM, MAX, "half"), (MAX, MAX, "freq"), (MAX, MAX, "half"), (MAX, MAX, "freq")]
        self.encode = nn.LayerList([Res(a, b, d, True) for a, b, d in downs])
        self.encode.extend([Res(MAX, MAX, "none", True) for _ in range(2)])
        self.F0_conv = nn.Sequential(Res(PITCH, PITCH // 2, "half", True))
        ups = [(MAX, MAX, "freq"), (MAX, MAX, "half"), (MAX, MAX, "freq"), (MAX, DIM, "half")]
        self.decode = nn.LayerList(
            [AdaRes(both, both), AdaRes(both, both), AdaRes(both, MAX)]
            + [AdaRes(a, b, u) for a, b, u in ups]
        )
        self.to_out = nn.Sequential(nn.InstanceNorm2D(DIM), nn.LeakyReLU(0.2), nn.Conv2D(DIM, 1, 1))

    def forward(self, x, s, pitch):
        x = self.stem(x)
        for block in self.encode:
            x = block(x)
        pitch = F.adaptive_avg_pool2d(self.F0_conv(pitch), [x.shape[2], x.shape[3]])
        x = paddle.concat([x, pitch], axis=1)
        for block in self.decode:
            x = block(x, s)
        return self.to_out(x)


class Mapping(nn.Layer):
    def __init__(self):
        super().__init__()

        def relu(a, n):
            return [m for i in range(n) for m in (nn.Linear(a if i == 0 else MAX, MAX), nn.ReLU())]

        self.shared = nn.Sequential(*relu(LATENT, 4))
        heads = [nn.Sequential(*relu(MAX, 3), nn.Linear(MAX, STYLE)) for _ in range(DOMAINS)]
        self.unshared = nn.LayerList(heads)

    def forward(self, z, y):
        return self.unshared[y](self.shared(z))


class Styles(nn.Layer):
    def __init__(self):
        super().__init__()
        blocks = [Res(DIM, MAX, "half")] + [Res(MAX, MAX, "half") for _ in range(3)]
        self.shared = nn.Sequential(
            nn.Conv2D(1, DIM, 3, padding=1),
            *blocks,
            nn.LeakyReLU(0.2),
            nn.Conv2D(MAX, MAX, 5),
            nn.AdaptiveAvgPool2D(1),
            nn.LeakyReLU(0.2),
        )
        self.unshared = nn.LayerList([nn.Linear(MAX, STYLE) for _ in range(DOMAINS)])

    def forward(self, x, y):
        return self.unshared[y](self.shared(x).flatten(1))


def conv(a, b):
    return nn.Conv2D(a, b, 3, padding=1, bias_attr=False)


class Pooled(nn.Layer):
    def __init__(self, a, b):
        super().__init__()
        self.pre_conv = nn.Sequential(nn.BatchNorm2D(a), nn.LeakyReLU(0.01), nn.MaxPool2D((1, 2)))
        self.conv = nn.Sequential(conv(a, b), nn.BatchNorm2D(b), nn.LeakyReLU(0.01), conv(b, b))
        self.conv1by1 = nn.Conv2D(a, b, 1, bias_attr=False)

    def forward(self, x):
        x = self.pre_conv(x)
        return self.conv(x) + self.conv1by1(x)


class Pitch(nn.Layer):
    def __init__(self):
        super().__init__()
        a, b, c, d = CHANNELS
        self.conv_block = nn.Sequential(
            conv(1, a), nn.BatchNorm2D(a), nn.LeakyReLU(0.01), conv(a, a)
        )
        self.res_block1, self.res_block2, self.res_block3 = Pooled(a, b), Pooled(b, c), Pooled(c, d)
        self.pool_block = nn.Sequential(
            nn.BatchNorm2D(d), nn.LeakyReLU(0.01), nn.MaxPool2D((1, 4)), nn.Dropout(0.5)
        )
        self.detector_conv = nn.Sequential(
            nn.Conv2D(a + b + c + d, d, 1, bias_attr=False), nn.BatchNorm2D(d), nn.LeakyReLU(0.01)
        )
        self.bilstm_classifier = nn.LSTM(2 * d, HIDDEN, direction="bidirectional")
        self.bilstm_detector = nn.LSTM(2 * d, HIDDEN, direction="bidirectional")
        self.classifier = nn.Linear(2 * HIDDEN, 1)
        self.detector = nn.Linear(2 * HIDDEN, 2)

    def forward(self, x):
        """Pitch, the generator's feature and the logit of silence."""
        first = self.conv_block(x.transpose([0, 1, 3, 2]))
        second = self.res_block1(first)
        third = self.res_block2(second)
        feature = self.pool_block[1](self.pool_block[0](self.res_block3(third)))
        pooled = self.pool_block[3](self.pool_block[2](feature))

        def sequence(y):
            return y.transpose([0, 2, 1, 3]).flatten(2)

        f0 = self.classifier(self.bilstm_classifier(sequence(pooled))[0]).squeeze(-1).abs()
        parts = [F.max_pool2d(y, (1, k)) for y, k in ((first, 40), (second, 20), (third, 10))]
        seen = self.detector_conv(paddle.concat([*parts, pooled], axis=1))
        silence = self.detector(self.bilstm_detector(sequence(seen))[0]).sum(-1)
        return f0, feature.transpose([0, 1, 3, 2]), silence


def networks(seed):
    """The four networks in evaluation mode, with statistics as after training."""
    paddle.seed(seed)
    nets = {"generator": Generator(), "mapping_network": Mapping(), "style_encoder": Styles()}
    nets["f0_model"] = Pitch()
    drawn = np.random.default_rng(seed)
    for net in nets.values():
        net.eval()
        for name, value in net.state_dict().items():
            if name.endswith("._variance"):
                value.set_value(drawn.uniform(0.5, 1.5, value.shape).astype("float32"))
            elif name.endswith(("._mean", "bias", ".scale")):
                value.set_value(drawn.normal(0.3, 0.5, value.shape).astype("float32"))
    return nets


def answers(nets, seed):
    """Inputs and what the networks make of them."""
    drawn = np.random.default_rng(seed + 1)
    given = {
        "mel": drawn.normal(0, 1, (1, 1, 80, 83)),
        "latent": drawn.normal(0, 1, (1, LATENT)),
    }
    given = {name: value.astype("float32") for name, value in given.items()}
    mel = paddle.to_tensor(given["mel"])
    with paddle.no_grad():
        f0, feature, silence = nets["f0_model"](mel)
        style = nets["style_encoder"](mel, 1)
        mapped = nets["mapping_network"](paddle.to_tensor(given["latent"]), 0)
        converted = nets["generator"](mel, style, feature)
    made = {"f0": f0, "feature": feature, "silence": silence, "style": style}
    made |= {"mapped": mapped, "converted": converted}
    return given | {name: value.numpy() for name, value in made.items()}


def write(nets, folder, protocol=4):
    """The files of the port: nested ones, and the pitch network also as a flat one."""
    folder.mkdir(parents=True, exist_ok=True)
    averaged = {name: net.state_dict() for name, net in nets.items() if name != "f0_model"}
    paddle.save({"model_ema": averaged}, str(folder / "vc_ema.pd"), protocol=protocol)
    paddle.save({"net": nets["f0_model"].state_dict()}, str(folder / "bst.pd"), protocol=protocol)
    paddle.save(nets["f0_model"].state_dict(), str(folder / "flat.pdparams"), protocol=protocol)


if __name__ == "__main__":
    made = networks(7)
    write(made, GOLDEN)
    np.savez(GOLDEN / "answers.npz", **answers(made, 7))
    sys.stdout.write(f"{GOLDEN}\n")
