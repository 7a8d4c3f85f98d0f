#!/usr/bin/env python3
"""Compares `netkin forward` with timm on weights and images that timm saves, fresh for each seed.

    pip install torch timm numpy safetensors
    cargo build --release
    python scripts/forward_check.py @paper69 --seed 1        # the 69 networks of the paper
    python scripts/forward_check.py resnet50 xcit_tiny_12_p8_224 --precision f32

Each network is built by timm and filled with random numbers (nothing is constant: norms, scales, position tables, gates and
running statistics too), saved as safetensors under timm's keys, and run by timm in double precision and by netkin in
`--precision`. Printed is a row each: the relative error ‖Δ‖/‖·‖ of logits, pooled features and the gradient of the mean
cross-entropy with respect to the pixels, and the share of equal signs of that gradient. The exit status is 1 if a row
misses the bounds (f64: 1e-8; f32: 1e-4 for logits and features, 99 % of the signs).

Images have the size that the network is made for; normalisation is the identity here, by a config.json beside the weights.
gluon_xception65 needs timm 0.6.13: run the script with that version for it.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import timm
import torch
from safetensors.numpy import load_file, save_file

from timm_reference import (
    DEFAULT_FOLDER, DEMO, build, contiguous_gradients, label_values, parameter_values, pooled, state, to_tensor, uniform,
    unrounded,
)  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
BOUNDS = {"f64": (1e-8, 1e-8), "f32": (1e-4, None)}


def paper69():
    with open(ROOT / "weights/src/paper69.csv") as file:
        return [row["model"].split(".")[0] for row in csv.DictReader(file)]


def gains():
    """The factors for matrices and kernels with which the networks' outputs follow their images: see `timm_reference.GAINS`."""
    lines = [json.loads(line) for path in DEFAULT_FOLDER.glob("*.jsonl") for line in path.read_text().splitlines()]
    return {line["name"]: line["gain"] for line in lines}


def relative(a, b):
    return float(numpy.linalg.norm(a.astype(numpy.float64) - b) / numpy.linalg.norm(b))


def check(name, options):
    """Errors of logits, features and gradient, and the share of equal signs."""
    model, _, size, _ = build(name, smaller=False)
    model = model.double().eval().requires_grad_(False)
    gain = options.gain or options.gains[name]
    with torch.no_grad():
        for key, tensor in state(model).items():
            shape = tuple(tensor.shape) or (1,)
            tensor.copy_(to_tensor(parameter_values(f"seed{options.seed}.{key}", shape, gain), tensor.shape))
    height, width = size or model.pretrained_cfg["input_size"][1:] if name not in DEMO else size or (28, 28)
    shape = [options.batch, 3, height, width]
    pixels = 0.5 * (uniform(f"seed{options.seed}.pixels", int(numpy.prod(shape))) + 1.0)
    # netkin reads f32 pixels; both see the same numbers.
    pixels = torch.from_numpy(pixels.astype(numpy.float32).astype(numpy.float64)).reshape(shape).requires_grad_()
    with unrounded(), contiguous_gradients(model):
        maps = model.forward_features(pixels)
    features = pooled(model, maps)
    logits = model.forward_head(maps)
    labels = torch.from_numpy(label_values(shape[0], logits.shape[1]))
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), pixels)

    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        folder = Path(folder)
        weights = {key: tensor.numpy().astype(numpy.float64) for key, tensor in state(model).items()}
        save_file(weights, folder / "model.safetensors")
        config = {"architecture": name, "pretrained_cfg": {"input_size": shape[1:], "mean": [0, 0, 0], "std": [1, 1, 1]}}
        (folder / "config.json").write_text(json.dumps(config))
        inputs = {"pixels": pixels.detach().numpy().astype(numpy.float32), "labels": labels.numpy()}
        save_file(inputs, folder / "inputs.safetensors")
        start = time.monotonic()
        subprocess.run(
            [
                options.netkin, "forward", f"{name}={folder / 'model.safetensors'}", "--inputs", folder / "inputs.safetensors",
                "--out", folder / "out.safetensors", "--grad", "--features", "--precision", options.precision, "--quiet",
            ],
            check=True,
        )  # fmt: skip
        seconds = time.monotonic() - start
        found = load_file(folder / "out.safetensors")
    gradient = gradient.numpy()
    signs = float(numpy.mean(numpy.sign(found["input_grad"]) == numpy.sign(gradient)))
    return (
        relative(found["logits"], logits.detach().numpy()),
        relative(found["features"], features.detach().numpy()),
        relative(found["input_grad"], gradient),
        signs,
        seconds,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="networks, or @paper69")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--gain", type=float, help="a factor for matrices and kernels [default: the reference values']")
    parser.add_argument("--precision", choices=sorted(BOUNDS), default="f64", help="netkin's")
    parser.add_argument("--netkin", default=ROOT / "target/release/netkin", type=Path)
    parser.add_argument("--scratch", type=Path, help="a folder for the saved weights")
    options = parser.parse_args()
    options.gains = gains()
    names = [name for word in options.names for name in (paper69() if word == "@paper69" else [word])]
    vectors, gradients = BOUNDS[options.precision]
    missed = 0
    print("| network | logits | features | gradient | equal signs | s |\n|---|---|---|---|---|---|")
    for name in names:
        try:
            logits, features, gradient, signs, seconds = check(name, options)
        except Exception as error:  # the other networks still count
            print(f"| {name} | {type(error).__name__}: {error} |", flush=True)
            missed += 1
            continue
        good = max(logits, features) <= vectors and (gradients is None or gradient <= gradients) and signs >= 0.99
        missed += not good
        mark = "" if good else " missed"
        print(f"| {name} | {logits:.1e} | {features:.1e} | {gradient:.1e} | {signs:.3%} | {seconds:.1f} |{mark}", flush=True)
    print(f"\n{len(names) - missed} of {len(names)} within the bounds, {options.precision}, seed {options.seed}, timm {timm.__version__}")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
