#!/usr/bin/env python3
"""netkin beside PyTorch, dcor and pytorch-cka on features: seconds and memory, as Markdown tables.

    pip install torch timm dcor pytorch-cka pillow safetensors
    cargo build --release
    python scripts/features_table.py --out docs/features-speed.md
    python scripts/features_table.py --only layers --layer-images 64 --rounds 1     # two minutes

Rows: `compare` of random features of 10,000 images × 2,048, in f32 and f64; `layers` of two networks of the size of ResNet-50 with
random weights on random images, in mini-batches of 64; `compare` of 50,000 × 2,048, whose n × n matrices would not fit.

netkin's seconds are of the whole process, with reading files and decoding images; those of the others are of the computation
alone, their libraries loaded, features and pixels in memory. Both have the same number of threads. Each side runs in a process
of its own, they take turns for some rounds, and the table holds the medians. Memory is the most that a process held, less what
the libraries alone hold. Rows without the networks are the comparison of given layers: netkin says how long it took; of the
others, what the networks alone take, run once more, is left out. dcor computes every distance by itself, by SciPy's cdist, and
those of each set several times; it gets a fifth of the images.
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed_table import KEEP_MEMORY

SEED = 0
NETWORK, MINI_BATCH, SIZE = "resnet50", 64, 224
# The blocks that netkin shows.
BLOCKS = ["act1", "maxpool"] + [f"layer{s + 1}.{b}" for s, count in enumerate([3, 4, 6, 3]) for b in range(count)]
BLOCKS += ["global_pool"]

# (title, format, one in so many of the images, what netkin is told, {rival: worker})
COMPARISONS = [
    ("dcor, f32", "f32", 1, ["--measure", "dcor"], {"PyTorch": "dcor_pytorch"}),
    ("dcor, f64", "f64", 1, ["--measure", "dcor"], {"PyTorch": "dcor_pytorch"}),
    ("dcor, f64", "f64", 5, ["--measure", "dcor"], {"dcor": "dcor"}),
    ("cka-linear, f32", "f32", 1, ["--measure", "cka-linear"], {"pytorch-cka": "cka_pytorch"}),
]
LAYERS = [
    ("layers, cka-linear, f32", ["--measure", "cka-linear"], {"pytorch-cka": "layers_cka"}),
    ("layers, dcor, f32", ["--measure", "dcor"], {"PyTorch": "layers_dcor"}),
]

# ---------------------------------------------------------------------------------------------------------------------
# What the others compute, each in a process of its own


def u_inner(a, b):
    """The inner product of two U-centred matrices of distances, multiplied out."""
    n = len(a)
    rows_a, rows_b = a.sum(1), b.sum(1)
    products = (a * b).sum() - 2 / (n - 2) * (rows_a * rows_b).sum()
    return (products + rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2))) / (n * (n - 3))


def u_correlation(a, b):
    return u_inner(a, b) / (u_inner(a, a) * u_inner(b, b)).sqrt()


def distances(x):
    """By products of matrices, as cdist does for so many rows."""
    import torch

    return torch.cdist(x, x)


def networks(folder):
    import safetensors.torch
    import timm

    for index in range(2):
        model = timm.create_model(NETWORK).eval()
        model.load_state_dict(safetensors.torch.load_file(folder / f"{index}.safetensors"), strict=False)
        yield model


def pixels(folder):
    import numpy as np
    import torch
    from PIL import Image

    images = [np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def layers_dcor(folder):
    """Distances of every layer by hooks, and all inner products of a mini-batch at once."""
    import torch

    models, images = list(networks(folder)), pixels(folder)
    matrices = []

    def hook(_module, _input, output):
        matrices.append(distances(output.flatten(1)))

    for model in models:
        modules = dict(model.named_modules())
        for block in BLOCKS:
            modules[block].register_forward_hook(hook)

    def run():
        total = 0
        for batch in images.split(MINI_BATCH):
            matrices.clear()
            for model in models:
                model(batch)
            a = torch.stack(matrices)
            n, rows = len(batch), a.sum(2)
            flat, totals = a.flatten(1), rows.sum(1)
            products = flat @ flat.T - 2 / (n - 2) * rows @ rows.T
            total = total + products + totals[:, None] * totals[None] / ((n - 1) * (n - 2))
        norms = total.diagonal().sqrt()
        return total / (norms[:, None] * norms[None])

    return run


def layers_cka(folder):
    from cka import compute_cka
    from torch.utils.data import DataLoader

    models, images = list(networks(folder)), pixels(folder)
    loader = DataLoader(images, batch_size=MINI_BATCH)
    return lambda: compute_cka(*models, loader, layers=BLOCKS, device="cpu", progress=False)


def seconds_of_networks(folder):
    """Of the networks alone, without a look at their layers."""
    models, images = list(networks(folder)), pixels(folder)
    start = time.perf_counter()
    for batch in images.split(MINI_BATCH):
        for model in models:
            model(batch)
    return time.perf_counter() - start


def of_features(name, folder):
    import numpy as np
    import torch

    x, y = (np.load(folder / f"{set}.npy") for set in "xy")
    if name == "dcor":
        import dcor

        # It takes NumPy's arrays for others' where array-api-compat is new, and would make n × n × d numbers of them.
        dcor.distances._can_be_numpy_double = lambda _: True
        return lambda: dcor.u_distance_correlation_sqr(x, y)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    if name == "dcor_pytorch":
        return lambda: u_correlation(distances(x), distances(y)).item()
    from cka import cka_from_features

    return lambda: cka_from_features(x, y).item()


def work(name, folder, threads, *arguments):
    """Writes what both sides read, or prints seconds and peak memory as JSON."""
    if name in WRITERS:
        return WRITERS[name](folder, *arguments)
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    libraries = peak_bytes()
    makers = {"layers_cka": layers_cka, "layers_dcor": layers_dcor}
    run = makers[name](folder) if name in makers else of_features(name, folder)
    if name != "dcor":
        # Threads and kernels are made at the first product.
        torch.randn(512, 512) @ torch.randn(512, 512)
    start = time.perf_counter()
    run()
    measured = {"seconds": time.perf_counter() - start, "bytes": peak_bytes() - libraries}
    if name in makers:
        measured["networks"] = seconds_of_networks(folder)
    print(json.dumps(measured))


def peak_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Measurements in turn


def run_netkin(options, arguments):
    """Seconds of the whole process and the most memory that it held."""
    command = [options.netkin, *map(str, arguments), "--threads", str(options.threads), "--json"]
    start = time.perf_counter()
    # A file and not a pipe, which nobody would empty meanwhile.
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        said.seek(0)
        said = said.read()
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{shlex.join(command)} failed: {said}")
    measured = {"seconds": seconds, "bytes": usage.ru_maxrss * 1024}
    if times := re.search(r"([\d.]+) s in networks, ([\d.]+) s in comparing", said):
        measured |= {"networks": float(times[1]), "comparison": float(times[2])}
    return measured


def run_other(options, worker, folder):
    command = [sys.executable, __file__, "--worker", worker, str(folder), "--threads", str(options.threads)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **KEEP_MEMORY})
    if result.returncode != 0:
        words = result.stderr.strip().splitlines() or ["no words"]
        sys.exit(f"{worker} failed: {words[-1]}")
    return json.loads(result.stdout)


def medians(options, arguments, rivals, folder):
    sides = {"netkin": []} | {name: [] for name in rivals}
    for _ in range(options.rounds):
        sides["netkin"].append(run_netkin(options, arguments))
        for name, worker in rivals.items():
            sides[name].append(run_other(options, worker, folder))
    of = lambda runs, key: statistics.median(run[key] for run in runs)
    return {name: {key: of(runs, key) for key in runs[0]} for name, runs in sides.items()}


def comparison(side):
    """The seconds of a row of layers without those of the networks."""
    return side.get("comparison", side["seconds"] - side["networks"])


def write_features(folder, images, width, kind):
    import numpy as np

    generator = np.random.default_rng(SEED)
    folder.mkdir(exist_ok=True)
    shared = generator.standard_normal((int(images), int(width)), dtype=np.float32)
    for name in "xy":
        features = generator.standard_normal(shared.shape, dtype=np.float32)
        features += shared
        np.save(folder / f"{name}.npy", features.astype(kind))


def write_networks(folder, images):
    import numpy as np
    import safetensors.torch
    import timm
    import torch
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index in range(2):
        torch.manual_seed(index)
        tensors = timm.create_model(NETWORK).state_dict()
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
        safetensors.torch.save_file(tensors, folder / f"{index}.safetensors")
    generator, lines = np.random.default_rng(SEED), ["file,label"]
    for index in range(int(images)):
        name = f"{index:03}.png"
        Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(folder / "images" / name)
        lines.append(f"{name},0")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


WRITERS = {"write_features": write_features, "write_networks": write_networks}


def write(what, folder, *arguments):
    """In a process of its own: what this one holds counts as held by those that it starts."""
    command = [sys.executable, __file__, "--worker", what, str(folder), *map(str, arguments)]
    subprocess.run(command, check=True)


def table(rows):
    yield "| what | beside | its seconds | netkin's seconds | netkin / other | its peak MiB | netkin's peak MiB |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for title, sides in rows:
        netkin = sides.pop("netkin")
        mebibytes = lambda side: f"{side['bytes'] / 2**20:.0f}"
        for name, other in sides.items() or {"–": None}.items():
            seconds, ratio, held = "–", "–", "–"
            if other:
                seconds, ratio = f"{other['seconds']:.2f}", f"{netkin['seconds'] / other['seconds']:.2f}"
                held = mebibytes(other)
            yield f"| {title} | {name} | {seconds} | {netkin['seconds']:.2f} | {ratio} | {held} | {mebibytes(netkin)} |"


def head(options):
    from importlib.metadata import version

    command = shlex.join(["python", "scripts/features_table.py", *sys.argv[1:]])
    libraries = ", ".join(f"{name} {version(name)}" for name in ["torch", "timm", "dcor", "pytorch-cka", "scipy"])
    netkin = subprocess.run([options.netkin, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":")[1].strip()
    return (
        f"# Features: netkin beside other programs\n\nPrinted by `{command}`.\n\n"
        f"{processor}; {os.cpu_count()} cores, {options.threads} threads; {platform.system()} {platform.release()}; {netkin}, "
        f"{libraries}; {time.strftime('%Y-%m-%d')}; medians of {options.rounds} rounds.\n\n"
        f"{__doc__.split('Rows: ')[1].join(['Rows: ', ''])}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--netkin", default="target/release/netkin")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=50_000, help="images of the last row; 0 for none")
    parser.add_argument("--width", type=int, default=2048, help="features of an image")
    parser.add_argument("--layer-images", type=int, default=128, help="images of the rows of layers")
    parser.add_argument("--only", choices=["compare", "layers", "many"], help="these rows alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, folder, *arguments = options.worker
        return work(name, Path(folder), options.threads, *arguments)
    rows = []
    wanted = lambda kind: options.only in (None, kind)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for title, kind, share, arguments, rivals in COMPARISONS if wanted("compare") else []:
            images, folder = options.images // share, scratch / kind
            write("write_features", folder, images, options.width, kind.replace("f", "float"))
            sides = medians(options, ["compare", folder / "x.npy", folder / "y.npy", *arguments], rivals, folder)
            rows.append((f"{title}, {images:,} × {options.width:,}", sides))
        folder = scratch / "networks"
        if wanted("layers"):
            write("write_networks", folder, options.layer_images)
        specs = [f"{NETWORK}={folder / f'{index}.safetensors'}" for index in range(2)]
        data = ["--data", folder / "images", "--labels", folder / "labels.csv", "--mini-batch", MINI_BATCH]
        for title, arguments, rivals in LAYERS if wanted("layers") else []:
            sides = medians(options, ["layers", *specs, *data, *arguments], rivals, folder)
            rows.append((f"{title}, two {NETWORK}, {options.layer_images} images", sides))
            compared = {name: {**side, "seconds": comparison(side)} for name, side in sides.items()}
            rows.append((f"{title}, without the networks", compared))
        if options.many and wanted("many"):
            folder = scratch / "many"
            write("write_features", folder, options.many, options.width, "float32")
            sides = medians(options, ["compare", folder / "x.npy", folder / "y.npy"], {}, folder)
            rows.append((f"dcor, f32, {options.many:,} × {options.width:,}", sides))
    text = head(options) + "\n" + "\n".join(table(rows)) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
