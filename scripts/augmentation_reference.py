#!/usr/bin/env python3
"""Makes the reference values of src/training/augment/ with timm, torchvision and Pillow.

    pip install torch torchvision timm pillow numpy
    python scripts/augmentation_reference.py

Writes tests/fixtures/augmentation/reference.json. Images are computed by a formula, which testing.rs has, too; of what becomes
of them only CRC-32 sums are stored. Wherever timm draws random numbers, they are recorded in its order, so that the tests can
decide by the same numbers: "u 0.25" in [0, 1), "b 5 2" the number 2 of those below 5, "n -0.3" normal, "g 0.7" beta.
"""

import json
import random
import zlib
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import timm.data.auto_augment as auto_augment
import timm.data.mixup as mixup
import timm.data.random_erasing as random_erasing
import timm.data.transforms as transforms
import torch
from PIL import Image
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.transforms_factory import transforms_imagenet_train
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "augmentation" / "reference.json"
MEAN = (0.485, 0.456, 0.406)
FILL = (124, 116, 104)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
IMAGES = [("full", 37, 29), ("dull", 48, 64), ("steps", 31, 40), ("flat", 9, 8), ("full", 2, 5)]


def image(kind, width, height):
    x, y, channel = np.meshgrid(np.arange(width), np.arange(height), np.arange(3), indexing="xy")
    value = (x * 131 + y * 241 + channel * 59 + (x * y % 251) * ((x + 3 * y) % 17)) % 256
    value = {
        "full": value,
        "dull": value // 3 + 20 + 40 * channel,
        "steps": value // 32 * 9 + 100,
        "flat": 77 + channel,
    }[kind]
    return Image.fromarray(value.astype(np.uint8), "RGB")


def crc(data):
    return f"{zlib.crc32(data):08x}"


def named(kind, width, height):
    return {"kind": kind, "width": width, "height": height}


class Draws:
    """Python's `random`, as far as timm uses it, recorded."""

    def __init__(self, seed):
        self.source = random.Random(seed)
        self.draws = []

    def record(self, kind, *values):
        self.draws.append(" ".join([kind, *(repr(value) for value in values)]))

    def unit(self):
        value = self.source.randrange(1_000_000) / 1_000_000  # few digits
        self.record("u", value)
        return value

    def below(self, bound):
        value = self.source.randrange(bound)
        self.record("b", bound, value)
        return value

    random = unit

    def uniform(self, low, high):
        return low + (high - low) * self.unit()

    def randint(self, low, high):
        return low + self.below(high - low + 1)

    def choice(self, items):
        return items[self.below(len(items))]

    def gauss(self, mean, deviation):
        value = round(self.source.gauss(0, 1), 4)
        self.record("n", value)
        return mean + value * deviation


class NumpyDraws:
    """`numpy.random`, as far as timm uses it, recorded among the same draws."""

    def __init__(self, draws):
        self.draws = draws

    def choice(self, items, count, replace, p):
        assert replace and p is None
        return [self.draws.choice(items) for _ in range(count)]

    def rand(self, count=None):
        return self.draws.unit() if count is None else np.array([self.draws.unit() for _ in range(count)])

    def beta(self, first, second, size=None):
        assert first == second
        if size is not None:
            return np.array([self.beta(first, second) for _ in range(size)])
        value = round(self.draws.source.betavariate(first, second), 5)
        self.draws.record("g", value)
        return value

    def randint(self, low, high, size=None):
        assert size is None
        return low + self.draws.below(high - low)


class Numpy:
    """numpy with other random numbers."""

    def __init__(self, draws):
        self.random = NumpyDraws(draws)

    def __getattr__(self, name):
        return getattr(np, name)


@contextmanager
def recorded(seed):
    draws = Draws(seed)
    with (
        patch.object(auto_augment, "random", draws),
        patch.object(auto_augment, "np", Numpy(draws)),
        patch.object(mixup, "np", Numpy(draws)),
        patch.object(random_erasing, "random", draws),
        patch.object(transforms, "random", draws),
        patch.object(torch, "rand", lambda count: torch.tensor([draws.unit()], dtype=torch.float64)),
    ):
        yield draws


def operations():
    plain = {
        "auto_contrast": (auto_augment.auto_contrast, [None]),
        "equalize": (auto_augment.equalize, [None]),
        "invert": (auto_augment.invert, [None]),
        "mirror": (functional.hflip, [None]),
        "flip": (functional.vflip, [None]),
        "posterize": (auto_augment.posterize, [1, 3, 4, 8]),
        "solarize": (auto_augment.solarize, [0, 26, 128, 256]),
        "solarize_add": (auto_augment.solarize_add, [0, 55, 110, 128]),
        "color": (auto_augment.color, [0.0, 0.1, 0.73, 1.0, 1.9, 3.1]),
        "contrast": (auto_augment.contrast, [0.0, 0.1, 0.73, 1.0, 1.9, 3.1]),
        "brightness": (auto_augment.brightness, [0.0, 0.1, 0.73, 1.0, 1.9, 3.1]),
        "sharpness": (auto_augment.sharpness, [0.0, 0.1, 0.73, 1.0, 1.9, 3.1]),
    }
    moving = {
        "rotate": [0.0, 27.0, -13.37, 90.0, 180.0, -30.0],
        "shear_x": [0.27, -0.3],
        "shear_y": [0.11, -0.3],
        "translate_x_rel": [0.405, -0.13],
        "translate_y_rel": [0.405, -0.13],
    }
    for which in IMAGES:
        for name, (function, arguments) in plain.items():
            for argument in arguments:
                changed = function(image(*which)) if argument is None else function(image(*which), argument)
                text = None if argument is None else repr(argument)
                yield named(*which) | {"operation": name, "argument": text, "crc": crc(changed.tobytes())}
    for which in [IMAGES[0], IMAGES[4]]:
        for name, arguments in moving.items():
            for argument in arguments:
                for filter_name, filter in FILTERS.items():
                    function = getattr(auto_augment, name)
                    changed = function(image(*which), argument, fillcolor=FILL, resample=filter)
                    case = {"operation": name, "argument": repr(argument), "filter": filter_name}
                    yield named(*which) | case | {"crc": crc(changed.tobytes())}


def crops():
    sizes = [(500, 375), (28, 28), (224, 224), (60, 400), (300, 90), (3, 700), (33, 10)]
    ranges = [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (0.3, 0.4)), ((0.5, 0.6), (1.0, 1.0))]
    for seed in range(3):
        for width, height in sizes:
            for scale, ratio in ranges:
                with recorded(seed) as draws:
                    window = transforms.RandomResizedCropAndInterpolation.get_params(
                        Image.new("RGB", (width, height)), scale, ratio
                    )
                case = {"width": width, "height": height, "window": window, "draws": draws.draws}
                yield case | {"scale": [repr(end) for end in scale], "ratio": [repr(end) for end in ratio]}


def color_jitter():
    jitter = ColorJitter(0.4, 0.4, 0.4)
    names = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation]
    for seed in range(12):
        torch.manual_seed(seed)
        order, *factors, _ = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        order = [number for number in order.tolist() if number < 3]
        which = IMAGES[seed % 3]
        torch.manual_seed(seed)
        changed = jitter(image(*which))
        by_hand = image(*which)
        for number in order:
            by_hand = names[number](by_hand, factors[number])
        assert by_hand.tobytes() == changed.tobytes()
        case = {"order": order, "factors": [repr(factor) for factor in factors], "crc": crc(changed.tobytes())}
        yield named(*which) | case


def rand_augment():
    texts = ["rand-m9-mstd0.5-inc1"] * 8 + [
        "rand-m7-n3-mstd1.5-p0.8",
        "rand-m9-mstd101-inc1-n4",
        "rand-m15-mmax20-p1-n3",
        "rand",
    ]
    for number in range(72):
        text = texts[number % len(texts)]
        interpolation = ["random", "bicubic", "bilinear"][number % 7 % 3]
        which = IMAGES[number % 3]
        parameters = {"img_mean": FILL}
        if interpolation != "random":
            parameters["interpolation"] = FILTERS[interpolation]
        augment = auto_augment.rand_augment_transform(text, parameters)
        for seed in range(number, 10_000, 1000):
            with recorded(seed) as draws:
                try:
                    changed = augment(image(*which))
                except ValueError:  # Pillow 13 does not posterize to no bits, which the highest magnitude asks for.
                    continue
            break
        case = {"rand_augment": text, "interpolation": interpolation, "draws": draws.draws}
        yield named(*which) | case | {"crc": crc(changed.tobytes())}


def whole():
    cases = [("", "random"), ("", "bicubic"), ("rand-m9-mstd0.5-inc1", "bicubic"), ("rand-m9-mstd0.5-inc1", "random")]
    for number in range(24):
        text, interpolation = cases[number % 4]
        size = [(32, 32), (24, 40)][number % 2]
        which = ("full", 61, 45) if number % 3 else ("dull", 30, 52)
        transform = transforms_imagenet_train(
            size,
            vflip=0.25,
            color_jitter=None,
            auto_augment=text or None,
            interpolation=interpolation,
            mean=MEAN,
            normalize=False,
        )
        for seed in range(number, 10_000, 1000):
            with recorded(seed) as draws:
                try:
                    changed = transform(image(*which))
                except ValueError:
                    continue
            break
        data = changed.permute(1, 2, 0).contiguous().numpy().tobytes()
        case = {"rand_augment": text, "interpolation": interpolation, "size": size, "draws": draws.draws}
        yield named(*which) | case | {"crc": crc(data)}


class Erased:
    """Instead of an image: notes what is written where."""

    def __init__(self):
        self.windows = []

    def __setitem__(self, place, values):
        _, rows, columns = place
        self.windows.append([rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start])


def erasing():
    for number in range(36):
        height, width = [(224, 224), (28, 28), (20, 70)][number % 3]
        probability, count = [(0.25, 1), (0.9, 1), (1.0, 4)][number // 3 % 3]
        erase = random_erasing.RandomErasing(probability, mode="pixel", max_count=count, device="cpu")
        erased = Erased()
        with recorded(number) as draws:
            erase._erase(erased, 3, height, width, torch.float32)
        case = {"height": height, "width": width, "probability": repr(probability), "count": count}
        yield case | {"windows": erased.windows, "draws": draws.draws}


def mixing():
    settings = [(0.8, 1.0, 1.0, 0.5), (0.2, 0.0, 0.7, 0.5), (0.0, 1.0, 0.7, 0.5), (2.5, 0.5, 0.8, 0.3)]
    for number in range(48):
        mode = ["batch", "pair", "elem"][number % 3]
        mixup_alpha, cutmix_alpha, probability, switch = settings[number // 3 % 4]
        count, height, width = [(4, 12, 9), (6, 7, 16), (2, 11, 11)][number // 12 % 3]
        smoothing = [0.1, 0.0][number // 24]
        places = np.arange(count)[:, None] * 31 + np.arange(3 * height * width)[None] * 7
        pixels = torch.from_numpy((places % 64).astype(np.float32) / np.float32(63)).view(count, 3, height, width)
        labels = torch.arange(count) ** 2 % 7
        mix = mixup.Mixup(mixup_alpha, cutmix_alpha, None, probability, switch, mode, True, smoothing, 7)
        with recorded(number) as draws:
            pixels, targets = mix(pixels.clone(), labels)
        case = {"mode": mode, "count": count, "height": height, "width": width, "draws": draws.draws}
        numbers = {"mixup": mixup_alpha, "cutmix": cutmix_alpha, "probability": probability, "switch": switch}
        sums = {"pixels": crc(pixels.numpy().tobytes()), "targets": crc(targets.numpy().astype("<f4").tobytes())}
        yield case | {name: repr(value) for name, value in (numbers | {"smoothing": smoothing}).items()} | sums


def repeats():
    for count in [1, 7, 255, 256, 257, 700]:
        sampler = RepeatAugSampler(range(count), num_replicas=1, rank=0, shuffle=False, num_repeats=3)
        assert list(sampler) == [position // 3 for position in range(len(sampler))]
        yield {"images": count, "repeats": 3, "positions": len(sampler)}


def main():
    sections = {
        "operations": operations(),
        "crops": crops(),
        "color_jitter": color_jitter(),
        "rand_augment": rand_augment(),
        "whole": whole(),
        "erasing": erasing(),
        "mixup": mixing(),
        "repeats": repeats(),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, cases in sections.items():
        rows = [json.dumps(case, separators=(",", ":")) for case in cases]
        print(name, len(rows))
        lines.append(f'"{name}":[\n' + ",\n".join(rows) + "\n]")
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
