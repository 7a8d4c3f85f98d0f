#!/usr/bin/env python3
"""What a SAT run over many networks costs, from what single steps cost: the tables of docs/scale.md.

    netkin bench resnet50 convnext_tiny vit_small_patch16_224 … --size 224 --batch 32 --json > bench.json
    python scripts/scale_table.py bench.json                              # on the machine where bench ran
    python scripts/scale_table.py bench.json --devices 1 --devices 100    # on so many devices like it

Reads the rows `forward` and `input-grad` and takes their mean time per image over the networks as that of all networks.
With --run FOLDER --images N --check-steps N --seconds S, the cost of a run that was done (of the networks in bench.json, all of
them) is computed and set beside the S seconds that it took.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

CHUNK = 32  # images in a unit of a run folder


class Cost:
    """Of one image and one network, in seconds."""

    def __init__(self, rows):
        def seconds(step):
            return {row["model"]: 1 / row["images_per_second"] for row in rows if row["pass"] == step}

        self.forward, self.gradient = seconds("forward"), seconds("input-grad")
        self.models = sorted(self.forward.keys() & self.gradient.keys())
        if not self.models:
            sys.exit("bench.json holds no network with both rows, forward and input-grad; call bench without --pass")
        self.mean_forward = statistics.fmean(self.forward[model] for model in self.models)
        self.mean_gradient = statistics.fmean(self.gradient[model] for model in self.models)


class Work:
    """Images through networks: every network is attacked on the images that it classifies correctly, all judge those."""

    def __init__(self, networks, images, steps, correct):
        self.attacked = networks * images * correct
        self.gradients = self.attacked * steps
        self.predictions = networks * images + self.attacked * networks

    def seconds(self, cost, devices=1):
        return (self.gradients * cost.mean_gradient + self.predictions * cost.mean_forward) / devices


def count(number):
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def duration(seconds):
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def of_bytes(number):
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    last = "---" if head[-1] == "why" else "---:"
    print("|---" + "|---:" * (len(head) - 2) + f"|{last}|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def sizes(options):
    return [(options.networks, images, options.steps) for images in (5_000, 50_000)]


def cost_table(options, cost):
    head = ["", "attack steps (image × step)", "predictions (images)"]
    head += [f"{devices} device{'s' if devices > 1 else ''}" for devices in options.devices]
    rows = []
    for networks, images, steps in sizes(options):
        work = Work(networks, images, steps, options.correct)
        row = [f"{networks} networks × {images:,} images × {steps} steps", count(work.gradients), count(work.predictions)]
        rows.append(row + [duration(work.seconds(cost, devices)) for devices in options.devices])
    table(head, rows)


def storage_table(options):
    rows = []
    for networks, images, _ in sizes(options):
        chunks = -(-images // CHUNK)
        units = networks * chunks
        attacked = networks * images * options.correct
        # A prediction is 2 bytes. Each unit has 34 bytes in its file's index, and 4 that tell which images were attacked; there
        # is one for the clean images of a chunk and a network, and one for each network that judges.
        predictions = 2 * (networks * images + attacked * networks) + units * 34 + units * networks * 38
        rows.append(
            [
                f"{networks} networks × {images:,} images",
                of_bytes(predictions),
                f"{chunks:,}",
                of_bytes(attacked * options.image_bytes),
                f"{units:,}",
            ]
        )
    table(["", "predictions", "files", "adversarial images, on request", "files"], rows)


def doubling_table(options, cost):
    networks, images, steps = sizes(options)[0]
    base = Work(networks, images, steps, options.correct)

    def times(work, devices=1):
        return f"× {work.seconds(cost, devices) / base.seconds(cost):.2f}"

    stored = "× 2.00"
    rows = [
        ["images", times(Work(networks, 2 * images, steps, options.correct)), stored, "as for one half each"],
        [
            "networks",
            times(Work(2 * networks, images, steps, options.correct)),
            stored + " (predictions × 4)",
            "every new network judges all, and is judged by all",
        ],
        ["steps", times(Work(networks, images, 2 * steps, options.correct)), "× 1.00", "predictions stay"],
        ["devices", times(base, 2), "× 1.00", "units do not depend on each other"],
        ["batch", "as bench says", "× 1.00", "the memory of a step doubles; the time of an image does not grow"],
    ]
    table(["twice as many", "time", "bytes kept", "why"], rows)


def check(options, cost):
    # Attacked are the images that a network classifies correctly; networks are right about different ones, the mean is near
    # enough.
    attacked = json.loads((options.run / "sat.json").read_text())["clean"].values()
    total, models = sum(attacked), cost.models
    each = total / len(models)
    gradients = sum(each * options.check_steps * cost.gradient[model] for model in models)
    predictions = sum((options.images + total) * cost.forward[model] for model in models)
    computed = gradients + predictions
    head = [f"{len(models)} networks × {options.images} images × {options.check_steps} steps", "attacks", "predictions", "all"]
    measured = ["measured", "", "", duration(options.seconds)]
    table(head, [["computed", duration(gradients), duration(predictions), duration(computed)], measured])
    print(f"measured / computed = {options.seconds / computed:.2f}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, help="the output of `netkin bench … --json`")
    parser.add_argument("--networks", type=int, default=69, help="[69, as in the paper]")
    parser.add_argument("--steps", type=int, default=50, help="[50, as in the paper]")
    parser.add_argument("--correct", type=float, default=0.8, help="share of images that a network classifies correctly [0.8]")
    parser.add_argument("--devices", type=int, action="append", help="devices like the measured one; several times [1]")
    parser.add_argument("--image-bytes", type=float, default=3 * 224 * 224, help="of an adversarial image [3 · 224²]")
    parser.add_argument("--run", type=Path, help="the folder of a run to check against")
    parser.add_argument("--images", type=int, help="images of that run")
    parser.add_argument("--check-steps", type=int, help="steps of that run's attack")
    parser.add_argument("--seconds", type=float, help="how long that run took, as it said at its end")
    options = parser.parse_args()
    options.devices = options.devices or [1]
    cost = Cost(json.loads(options.bench.read_text())["results"])
    if options.run:
        if None in (options.images, options.check_steps, options.seconds):
            sys.exit("--run wants --images, --check-steps and --seconds, too")
        return check(options, cost)
    print(
        f"Mean of {len(cost.models)} networks: {1e3 * cost.mean_gradient:.3g} ms for a step of an attack on one image, "
        f"{1e3 * cost.mean_forward:.3g} ms for a prediction.\n"
    )
    cost_table(options, cost)
    storage_table(options)
    doubling_table(options, cost)


if __name__ == "__main__":
    main()
