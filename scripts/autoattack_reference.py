#!/usr/bin/env python3
"""AutoAttack by its authors' code, and by netkin, on the same small network and the same images: the table of docs/attacks.md.

    git clone https://github.com/fra31/auto-attack
    pip install torch timm numpy safetensors pillow
    netkin demo --limit 200 --steps 1 --out demo             # images of Fashion-MNIST, of which the first ones are taken
    python scripts/autoattack_reference.py --autoattack auto-attack --netkin target/release/netkin \\
        --data demo/images --labels demo/labels.csv --limit 200 --eps 8/255 demo_resnet demo_vit_patch7 demo_mixer
    python scripts/autoattack_reference.py ... --eps 0.1 demo_resnet=robust-run/model.safetensors
    python scripts/autoattack_reference.py ... --limit 50 --only fab-t square --seeds 0 1 2 3 demo_mixer

A network is one of netkin's demo networks, with the weights that netkin carries or those of a file. It is built in PyTorch as
timm_reference.py builds it, and computes in single precision on the CPU. For each network two rows are printed: the accuracy
under each part of AutoAttack alone and under all of them, and what is left after each part when they come one after
another. Without --netkin the authors' alone; with it netkin's stand before them, with the same budget. With --only, one row for
each seed: the accuracy under these parts alone.
"""
import argparse
import csv
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file

from timm_reference import DEMO

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")


class Demo(torch.nn.Module):
    """A demo network of pixels in [0, 1], which it scales to [-1, 1] as netkin does."""

    def __init__(self, name, weights):
        super().__init__()
        self.network = DEMO[name][2]()
        there = {key: tensor.float() for key, tensor in load_file(weights).items()}
        # What counts batches is kept by PyTorch alone.
        counts = {key: tensor for key, tensor in self.network.state_dict().items() if key.endswith("num_batches_tracked")}
        self.network.load_state_dict({**counts, **there})
        self.eval()

    def forward(self, pixels):
        return self.network(2 * pixels - 1)


class Log:
    """Takes what AutoAttack logs, and keeps the accuracy after each part."""

    def __init__(self):
        self.after = {}

    def log(self, line):
        found = re.search(r"robust accuracy after ([\w-]+): ([\d.]+)%", line)
        if found:
            self.after[found[1].lower()] = float(found[2])


def images(options):
    with open(options.labels, newline="") as file:
        rows = list(csv.DictReader(file))[: options.limit]
    read = lambda name: numpy.asarray(Image.open(options.data / name).convert("RGB"), dtype=numpy.float32) / 255
    pixels = torch.from_numpy(numpy.stack([read(row["file"]) for row in rows])).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor([int(row["label"]) for row in rows])


def theirs(network, pixels, labels, options, seed):
    """Accuracies in percent: clean, under each part alone and under all ("autoattack"), and after each part. With --only, under
    these parts alone."""
    from autoattack import AutoAttack

    def attack():
        made = AutoAttack(network, norm=options.norm, eps=options.radius, seed=seed, device="cpu", verbose=False)
        for part in (made.apgd, made.apgd_targeted, made.fab):
            part.n_iter = options.steps
        made.square.n_queries = options.queries
        return made

    def accuracy(x):
        with torch.no_grad():
            batches = zip(x.split(250), labels.split(250))
            return 100 * sum((network(x).argmax(1) == y).sum().item() for x, y in batches) / len(labels)

    each = attack()
    if options.only:
        each.attacks_to_run = options.only
    alone = each.run_standard_evaluation_individual(pixels, labels)
    if options.only:
        return accuracy(pixels), {name: accuracy(x) for name, x in alone.items()}, {}
    whole = attack()
    whole.verbose, whole.logger = True, Log()
    result = whole.run_standard_evaluation(pixels, labels)
    alone = {name: accuracy(x) for name, x in alone.items()}
    # A part that has nothing left to do is not logged.
    after, left = {}, None
    for part in PARTS:
        left = after[part] = whole.logger.after.get(part, left)
    return accuracy(pixels), {**alone, "autoattack": accuracy(result)}, after


def ours(name, weights, options, seed):
    """The same by netkin."""
    alone, after, clean = {}, {}, None
    for attack in options.only or (*PARTS, "autoattack"):
        with tempfile.TemporaryDirectory() as out:
            command = [options.netkin, "--json", "--quiet", "attack", f"{name}={weights}", "--attack", attack]
            command += ["--norm", options.norm.lower(), "--eps", options.eps, "--data", options.data]
            command += ["--labels", options.labels, "--limit", options.limit, "--seed", seed, "--out", out]
            if attack in ("square", "autoattack"):
                command += ["--queries", options.queries]
            if attack != "square":
                command += ["--steps", options.steps]
            ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if ran.returncode != 0:
            sys.exit(ran.stderr)
        found = json.loads(ran.stdout)
        clean = 100 * found["correct"] / found["images"]
        alone[attack] = found["robust_accuracy"]
        after = {part["attack"]: part["robust_accuracy"] for part in found.get("parts", [])}
    return clean, alone, after


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NAME[=FILE.safetensors]")
    parser.add_argument("--autoattack", type=pathlib.Path, required=True, metavar="DIR", help="a checkout of the authors' code")
    parser.add_argument("--netkin", type=pathlib.Path, metavar="PROGRAM")
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--labels", type=pathlib.Path, required=True, metavar="CSV")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--norm", default="Linf", choices=("Linf", "L2", "L1"))
    parser.add_argument("--eps", default="8/255", help="a number or a fraction")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART")
    options = parser.parse_args()
    above, _, below = options.eps.partition("/")
    options.radius = float(above) / float(below or 1)
    sys.path.insert(0, str(options.autoattack))
    pixels, labels = images(options)
    columns = options.only or (*PARTS, "autoattack")
    print("| network | norm, ε, images | | clean | " + " | ".join(columns) + " |")
    print("|---|---|---|" + "---:|" * (len(columns) + 1))
    for network, seed in itertools.product(options.networks, options.seeds):
        name, _, file = network.partition("=")
        weights = pathlib.Path(file or ROOT / f"weights/embedded/{name}.safetensors")
        results = [theirs(Demo(name, weights), pixels, labels, options, seed)]
        if options.netkin:
            results.insert(0, ours(name, weights, options, seed))
        cell = lambda values: " / ".join("–" if value is None else f"{value:.1f}" for value in values)
        setting = f"{options.norm}, {options.eps}, {len(labels)}"
        clean = cell(clean for clean, *_ in results)
        alone = " | ".join(cell(alone[part] for _, alone, _ in results) for part in columns)
        after = " | ".join(cell(after.get(part) for *_, after in results) for part in PARTS)
        which = f"seed {seed}" if options.only else "each alone"
        print(f"| {name} | {setting} | {which} | {clean} | {alone} |", flush=True)
        if options.only:
            continue
        print(f"| {name} | {setting} | after it | {clean} | {after} | |", flush=True)


if __name__ == "__main__":
    main()
