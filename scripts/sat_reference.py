"""SAT by PyTorch and timm, with the protocol of `netkin sat`, to compare the counts.

    pip install torch timm
    python scripts/sat_reference.py NAME=WEIGHTS NAME=WEIGHTS … --data DIR --labels CSV --steps 10

Prints the JSON of `netkin sat --json`, as far as the counts go: `clean` and `pairs`.
No random start, shared crop (short side to size / 0.875, centre crop), 8-bit adversarial images, L-infinity PGD.

Networks compute in double precision: each step of the attack takes the sign of a gradient, so rounding grows until most
bytes of an attacked image differ, and the counts of PyTorch in single precision are themselves off by several from its
own in double precision. `--precision f32` shows that.
"""
import argparse
import csv
import json
import math
import pathlib

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

parser = argparse.ArgumentParser()
parser.add_argument("models", nargs="+")
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--labels", type=pathlib.Path, required=True)
parser.add_argument("--limit", type=int)
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--eps", type=float, default=8 / 255)
parser.add_argument("--step-size", type=float, default=2 / 255)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--precision", choices=["f32", "f64"], default="f64")
args = parser.parse_args()
DTYPE = {"f32": torch.float32, "f64": torch.float64}[args.precision]

if DTYPE == torch.float64:
    # PyTorch's depthwise convolution in double precision takes minutes per step: the same sum, one tap of the kernel at a time.
    plain_conv2d = torch.nn.functional.conv2d

    def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        pair = lambda value: value if isinstance(value, tuple) else (value, value)
        if groups != x.shape[1] or weight.shape[:2] != (groups, 1) or pair(dilation) != (1, 1):
            return plain_conv2d(x, weight, bias, stride, padding, dilation, groups)
        (sy, sx), (py, px) = pair(stride), pair(padding)
        x = torch.nn.functional.pad(x, (px, px, py, py))
        height, width = (x.shape[2] - weight.shape[2]) // sy + 1, (x.shape[3] - weight.shape[3]) // sx + 1
        y = 0 if bias is None else bias.view(1, -1, 1, 1)
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                part = x[:, :, i:i + (height - 1) * sy + 1:sy, j:j + (width - 1) * sx + 1:sx]
                y = y + part * weight[:, 0, i, j].view(1, -1, 1, 1)
        return y

    torch.nn.functional.conv2d = conv2d

FILTERS = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}


class Network:
    def __init__(self, spec):
        self.name, path = spec.split("=", 1)
        self.module = timm.create_model(self.name.split(".")[0])
        self.module.load_state_dict(load_file(path))
        self.module.to(DTYPE).eval().requires_grad_(False)
        config = self.module.pretrained_cfg
        self.size = config["input_size"][1]
        # torchvision's weights, which timm does not list, were made with bilinear resizing.
        self.filter = FILTERS["bilinear" if ".tv_in1k." in path else config["interpolation"]]
        self.mean = torch.tensor(config["mean"], dtype=DTYPE).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"], dtype=DTYPE).view(1, 3, 1, 1)

    def logits(self, pixels):
        return self.module((pixels - self.mean) / self.std)

    def see(self, image):
        scaled = math.floor(self.size / 0.875)
        width, height = image.size
        if width <= height:
            size = (scaled, int(scaled * height / width))
        else:
            size = (int(scaled * width / height), scaled)
        image = image.resize(size, self.filter)
        left, top = round((size[0] - self.size) / 2), round((size[1] - self.size) / 2)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def predict(self, images):
        parts = [self.logits(tensor(images[i:i + args.batch])).argmax(1) for i in range(0, len(images), args.batch)]
        return torch.cat(parts).numpy() if parts else np.zeros(0, int)

    def attack(self, images, labels):
        x = tensor(images)
        adversarial = x.clone()
        for _ in range(args.steps):
            adversarial.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(self.logits(adversarial), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            moved = adversarial.detach() + args.step_size * gradient.sign()
            adversarial = (x + (moved - x).clamp(-args.eps, args.eps)).clamp(0, 1)
        levels = math.floor(args.eps * 255 + 1e-6)
        wanted = np.rint(adversarial.numpy().transpose(0, 2, 3, 1) * 255).astype(int)
        original = images.astype(int)
        return np.clip(wanted, np.maximum(original - levels, 0), np.minimum(original + levels, 255)).astype(np.uint8)


def tensor(images):
    # Divided in single precision, as torchvision does, whatever the networks compute in.
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)).to(DTYPE)


networks = [Network(spec) for spec in args.models]
rows = list(csv.DictReader(args.labels.open()))[: args.limit]
images = [Image.open(args.data / row["file"]).convert("RGB") for row in rows]
labels = np.array([int(row["label"]) for row in rows])
correct, fooled = [], []
with torch.no_grad():
    for network in networks:
        clean = np.stack([network.see(image) for image in images])
        correct.append(network.predict(clean) == labels)
        chosen = np.flatnonzero(correct[-1])
        adversarial = []
        for start in range(0, len(chosen), args.batch):
            part = chosen[start:start + args.batch]
            with torch.enable_grad():
                adversarial.append(network.attack(clean[part], torch.from_numpy(labels[part])))
        adversarial = np.concatenate(adversarial)
        judged = []
        for judge in networks:
            seen = adversarial
            if judge.size != network.size:
                resized = [Image.fromarray(a).resize((judge.size, judge.size), Image.BICUBIC) for a in adversarial]
                seen = np.stack([np.asarray(image) for image in resized])
            wrong = np.zeros(len(labels), bool)
            wrong[chosen] = judge.predict(seen) != labels[chosen]
            judged.append(wrong)
        fooled.append(judged)

pairs = []
for a in range(len(networks)):
    for b in range(a + 1, len(networks)):
        both = correct[a] & correct[b]
        n, ab, ba = int(both.sum()), int((fooled[a][b] & both).sum()), int((fooled[b][a] & both).sum())
        sat = math.log(max(0.01, 100 * (ab + ba) / (2 * n))) if n else None
        pairs.append(dict(a=networks[a].name, b=networks[b].name, n=n, fooled_ab=ab, fooled_ba=ba, sat=sat))
clean = {network.name: int(c.sum()) for network, c in zip(networks, correct)}
print(json.dumps({"clean": clean, "pairs": pairs}, indent=2))
