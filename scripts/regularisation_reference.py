#!/usr/bin/env python3
"""Reference values of what timm's networks do in training only, for netkin's test `architectures/tests/regularisation.rs`.

    pip install torch timm numpy
    python scripts/regularisation_reference.py                       # all networks of the two lists below
    python scripts/regularisation_reference.py resnet18 levit_128s   # these alone

Two files in `architectures/tests/fixtures/regularisation/`, a line for each network, come of it:

* `forward.jsonl`: logits in double precision of a network with parameters and pixels by the formula of
  `timm_reference.py`, whose `DropPath`s and `Dropout`s take the numbers that netkin's `Random` draws, in the order in which
  they are called. Batch normalisation stays in evaluation mode.
* `initial.jsonl`: mean, standard deviation and kurtosis of the parameters that timm draws, of blocks only the first.

Lines of other networks stay as they are.
"""

import argparse
import json
import re
from pathlib import Path
from unittest import mock

import timm
import torch
from timm.models import mlp_mixer

import timm_reference as reference

FOLDER = Path(__file__).resolve().parent.parent / "architectures/tests/fixtures/regularisation"

SEED = 7
BATCH = 3
DROP_PATH = 0.4
DROPOUT = 0.25
SAMPLES = 12
# A network whose logits change by less than this share would tell nothing.
LEAST_CHANGE = 1e-3

# Name -> pixels, both ways: one for each kind of block in each family.
FORWARD = {
    "caformer_s18": 64,
    "cait_xxs24_224": 48,
    "convit_tiny": 96,
    "convnext_atto": 64,
    "deit3_small_patch16_224": 32,
    "deit_tiny_distilled_patch16_224": 32,
    "demo_gmlp": 28,
    "demo_mixer": 28,
    "efficientnet_b0": 64,
    "efficientnetv2_rw_t": 64,
    "levit_128s": 224,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_050": 64,
    "nest_tiny": 64,
    "pit_ti_distilled_224": 64,
    "poolformer_s12": 64,
    "regnetv_040": 64,
    "regnety_002": 64,
    "regnetz_005": 64,
    "resmlp_12_224": 224,
    "resnet18": 64,
    "resnetv2_18": 64,
    "resnetv2_50t": 64,
    "seresnext26t_32x4d": 64,
    "starnet_s050": 64,
    "swin_tiny_patch4_window7_224": 96,
    "swinv2_tiny_window8_256": 96,
    "tnt_s_patch16_224": 48,
    "twins_svt_small": 64,
    "visformer_tiny": 96,
    "xcit_nano_12_p16_224": 48,
}

INITIAL = [
    "caformer_s18",
    "cait_xxs24_224",
    "convnext_atto",
    "convnextv2_atto",
    "deit_tiny_distilled_patch16_224",
    "efficientnet_b0",
    "gmixer_12_224",
    "gmlp_ti16_224",
    "levit_128s",
    "mobilenetv3_small_050",
    "nest_tiny",
    "pit_ti_224",
    "poolformer_s12",
    "regnety_002",
    "regnetz_005",
    "resmlp_12_224",
    "resnet18",
    "resnetv2_18",
    "seresnext26t_32x4d",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "twins_svt_small",
    "vit_small_r26_s32_224",
    "vit_tiny_r_s16_p8_224",
    "xcit_nano_12_p16_224",
]

# Those that timm builds for one size.
SIZED = {
    "cait_xxs24_224",
    "convit_tiny",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "nest_tiny",
    "pit_ti_distilled_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "tnt_s_patch16_224",
    "twins_svt_small",
    "visformer_tiny",
    "xcit_nano_12_p16_224",
}


class Random:
    """`netkin_architectures::Random`: SplitMix64, begun with a number."""

    STEP = 0x9E3779B97F4A7C15
    BITS = 2**64 - 1

    def __init__(self, seed):
        self.state = self.mix((seed + self.STEP) & self.BITS)
        self.state = self.draw()

    @classmethod
    def mix(cls, bits):
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & cls.BITS
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & cls.BITS
        return bits ^ (bits >> 31)

    def draw(self):
        self.state = (self.state + self.STEP) & self.BITS
        return self.mix(self.state)

    def factors(self, count, rate):
        """0 with the probability `rate`, else what keeps the mean."""
        stays = 1.0 - rate
        units = [(self.draw() >> 11) / 2**53 for _ in range(count)]
        return torch.tensor([1.0 / stays if unit < stays else 0.0 for unit in units], dtype=torch.float64)


def drawing(random):
    """Lets DropPath and Dropout take their numbers from `random`."""

    def drop_path(x, drop_prob=0.0, training=False, scale_by_keep=True):
        if drop_prob == 0.0 or not training:
            return x
        return x * random.factors(len(x), drop_prob).reshape(-1, *[1] * (x.ndim - 1))

    def dropout(x, p=0.5, training=True, inplace=False):
        if p == 0.0 or not training:
            return x
        return x * random.factors(x.numel(), p).reshape(x.shape)

    return (
        mock.patch.object(timm.layers.drop, "drop_path", drop_path),
        mock.patch.object(torch.nn.functional, "dropout", dropout),
    )


def build(name, pixels):
    options = {"drop_path_rate": DROP_PATH, "drop_rate": DROPOUT}
    if name == "demo_mixer":
        return reference.small_mixer(**options)
    if name == "demo_gmlp":
        blocks = {"block_layer": mlp_mixer.SpatialGatingBlock, "mlp_layer": mlp_mixer.GatedMlp}
        return reference.small_mixer(mlp_ratio=4, **blocks, **options)
    if name in SIZED:
        options["img_size"] = pixels
    return timm.create_model(name, pretrained=False, **options)


def forward(name):
    pixels = FORWARD[name]
    model = build(name, pixels).double().eval().requires_grad_(False)
    for key, tensor in reference.state(model).items():
        tensor.copy_(reference.to_tensor(reference.parameter_values(key, tensor.shape, 1.0), tensor.shape))
    shape = [BATCH, 3, pixels, pixels]
    images = reference.to_tensor(reference.pixel_values(shape), shape)
    with reference.unrounded():
        plain = model(images)
        model.training = True  # its own functional dropout, if it has one
        for module in model.modules():
            if isinstance(module, (timm.layers.DropPath, torch.nn.Dropout)):
                module.training = True
        paths, drops = drawing(Random(SEED))
        with paths, drops:
            logits = model(images)
    change = ((logits - plain).norm() / plain.norm()).item()
    assert LEAST_CHANGE < change < 1e3, f"{name}: logits change by {change}"
    values = logits.numpy().ravel()
    return {
        "name": name,
        "timm": timm.__version__,
        "pixels": pixels,
        "norm": logits.norm().item(),
        "samples": [float(values[index * values.size // SAMPLES]) for index in range(SAMPLES)],
    }


def rounded(value):
    return float(f"{value:.4g}")


def initial(name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    statistics, known = {}, set()
    for key, tensor in model.named_parameters():
        pattern = re.sub(r"(?<=\.)b?\d+(?=\.)", "*", key)
        if pattern in known:
            continue
        known.add(pattern)
        values = tensor.detach().double().flatten()
        # One number in 2²⁴ of timm's truncated normal ones is -2, a hundred deviations away: where the even one is -1.
        values = values[values.abs() != 2.0]
        mean, deviation = values.mean().item(), values.std(unbiased=False).item()
        kurtosis = ((values - mean) ** 4).mean().item() / deviation**4 if deviation > 1e-9 else 0.0
        statistics[key] = [rounded(mean), rounded(deviation), rounded(kurtosis)]
    return {"name": name, "timm": timm.__version__, "statistics": statistics}


def store(path, line):
    """Puts a line into a file, which stays sorted by name."""
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    lines = sorted([old for old in lines if old["name"] != line["name"]] + [line], key=lambda line: line["name"])
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks; none: all")
    names = parser.parse_args().names
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, known, make in (("forward.jsonl", FORWARD, forward), ("initial.jsonl", INITIAL, initial)):
        for name in [name for name in known if not names or name in names]:
            store(FOLDER / file, make(name))
            print(file, name, flush=True)


if __name__ == "__main__":
    main()
