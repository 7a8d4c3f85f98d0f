#!/usr/bin/env python3
"""Training from image files, netkin and timm side by side, and netkin's memory by the number of images, as Markdown tables.

    pip install torch timm
    cargo build --release
    python scripts/training_table.py --out docs/training-speed.md
    python scripts/training_table.py --rounds 1 --repetitions 2 --warm-up 1 --workers 1      # a few minutes

The first table: DeiT-Ti by the whole recipe `deit-tiny` but for the batch, from JPEG files of 500 × 375 pixels of noise of
all scales. Both sides read, decode, augment, mix, step and average on the same cores; what is timed are whole steps, one after
another, while the files of later batches are read. timm's side is the loop of its train.py with its dataset, loader, Mixup,
optimiser and ModelEmaV3, which get their values from what `netkin train --print-recipe` prints. PyTorch gets the number of
worker processes, timm's prefetcher or none, and the layout of tensors with which it was the fastest once. Then both sides take
turns, each in a process of its own; the table holds the medians of the rounds, and the median of each round's ratio.

The second table: the most memory that `netkin train` held, on 1,000 and on 100,000 files of 64 × 64 pixels, by the same
settings. Names are as long as ImageNet's. netkin is stopped by SIGTERM, as schedulers do it, once its log has the steps.
"""

import argparse
import io
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed_table import KEEP_MEMORY, VECTORS, machine, output_of

# What netkin's step may take of timm's.
BOUND = 0.7
# By how much a hundred times as many images may raise the most memory held.
MEMORY_BOUND = 0.05
# Of ImageNet's training set.
IMAGENET = 1_281_167

SEED = 0
# Files that differ; the others are links to them.
DIFFERENT = 200
LOADERS = ["prefetcher", "no prefetcher"]
# A step's files are read some steps ahead: the loaders are to be at work until the last timed step.
AHEAD = 6
FEW, MANY = 1_000, 100_000
# Steps after which memory is looked at.
STEPS = 6
# What is trained for the second table: network, recipe, batch (None: that of the first table). Beside the small network's own
# memory it shows what an image takes.
REMEMBERED = [("deit_tiny_patch16_224", "deit-tiny", None), ("demo_resnet", "fashion-mnist", 8)]

# ---------------------------------------------------------------------------------------------------------------------
# Images


def picture(generator, width, height):
    """Noise of all scales, the coarser the stronger, as photographs have it."""
    import numpy as np
    from PIL import Image

    levels = np.zeros((height, width, 3), np.float32)
    cells, weight = 2, 1.0
    while cells <= 2 * width:
        rows = max(1, cells * height // width)
        noise = Image.fromarray(generator.integers(0, 256, (rows, cells, 3), dtype=np.uint8))
        levels += weight * (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 127.5)
        cells, weight = 2 * cells, 0.8 * weight
    levels = 127.5 + levels * (55 / levels.std())
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def write_images(folder, count, classes, sizes):
    """A folder with train and test of class folders, as long as it is not there; its files are links to some that differ."""
    import numpy as np

    if folder.exists():
        return folder
    generator = np.random.default_rng(SEED)
    part = folder.with_suffix(".part")
    (part / "different").mkdir(parents=True)
    different = []
    for number in range(min(count, DIFFERENT)):
        file = io.BytesIO()
        picture(generator, *sizes[number % len(sizes)]).save(file, "JPEG", quality=95)
        different.append(part / "different" / f"{number}.jpg")
        different[-1].write_bytes(file.getvalue())
    for number in range(count):
        name = f"c{number % classes:08}"
        if number < classes:
            (part / "train" / name).mkdir(parents=True)
        # 30 letters, as n01440764/n01440764_10026.JPEG has.
        os.link(different[number % len(different)], part / "train" / name / f"{name}_{number // classes:05}.JPEG")
    (part / "test" / "c00000000").mkdir(parents=True)
    os.link(different[0], part / "test" / "c00000000" / "c00000000_00000.JPEG")
    part.rename(folder)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# netkin


def steps_of(log):
    """The steps in a run's log; what is being written counts no more than what is not there."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == "step"]


def train_netkin(command, data, steps, threads, vectors):
    """Trains until the log has so many steps, ends it, and prints them and the most memory that it held in bytes, as JSON.

    For a process of its own: what the system tells of a child's memory is no less than what its parent held.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*command, "--data", data, "--run", str(run), "--set", "log_every=1", "--threads", str(threads), "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **VECTORS[vectors]})
        ended, is_told = 0, False
        while not ended:
            time.sleep(0.02)
            if not is_told and len(steps_of(run / "log.jsonl")) >= steps:
                os.kill(process.pid, signal.SIGTERM)
                is_told = True
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        found = steps_of(run / "log.jsonl")
    if process.returncode not in (0, 75):
        sys.exit(process.returncode)  # after netkin's own words
    if len(found) < steps:
        sys.exit(f"netkin ended after {len(found)} of {steps} steps")
    held = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"steps": found[:steps], "bytes": held}))


def run_netkin(options, arguments, data, steps):
    command = [options.netkin, "train", *arguments]
    return run_worker("netkin", command, str(data), steps, options.threads, options.vectors)


def measure_netkin(options, data):
    arguments = ["--recipe", "deit-tiny", "--batch", str(options.batch)]
    steps = run_netkin(options, arguments, data, options.warm_up + options.repetitions)["steps"]
    timed = [(options.batch / step["images_per_second"], step["waited"]) for step in steps[options.warm_up :]]
    seconds = sum(second for second, _ in timed)
    return {
        "ms": seconds * 1e3 / (options.batch * options.repetitions),
        "waited": sum(second * share for second, share in timed) / seconds,
    }


# ---------------------------------------------------------------------------------------------------------------------
# timm, in a process of its own


def train_timm(recipe, data, workers, loader, layout, threads, warm_up, repetitions):
    """Prints milliseconds for an image and the share of the time that the loop waited for its loader, as JSON."""
    import timm
    import torch
    from timm.data import FastCollateMixup, Mixup, create_dataset, create_loader
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    torch.set_num_threads(threads)
    # RepeatAugSampler is for processes that share an epoch, of which this is one.
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    device = torch.device("cpu")
    layout = torch.contiguous_format if layout == "NCHW" else torch.channels_last
    is_prefetched, batch = loader == "prefetcher", recipe["batch_size"]
    optimiser, regularisation, augmentation = (recipe[key] for key in ("optimizer", "regularisation", "augmentation"))
    dataset = create_dataset("", root=data, split="train", is_training=True, batch_size=batch)
    classes = len(dataset.reader.class_to_idx)
    model = timm.create_model(recipe["model"], num_classes=classes, drop_path_rate=regularisation["drop_path"])
    model = model.to(memory_format=layout).train()
    average = ModelEmaV3(model, decay=regularisation["ema_decay"])
    optimizer = create_optimizer_v2(
        model,
        opt=optimiser["name"],
        lr=recipe["schedule"]["warmup_lr"],
        weight_decay=optimiser["weight_decay"],
        betas=optimiser["betas"],
        eps=optimiser["eps"],
    )
    mixing = dict(
        mixup_alpha=augmentation["mixup"],
        cutmix_alpha=augmentation["cutmix"],
        prob=augmentation["mix_probability"],
        switch_prob=augmentation["mix_switch"],
        mode=augmentation["mix_mode"],
        label_smoothing=regularisation["label_smoothing"],
        num_classes=classes,
    )
    mixup = None if is_prefetched else Mixup(**mixing)
    batches = create_loader(
        dataset,
        input_size=(3, recipe["input_size"], recipe["input_size"]),
        batch_size=batch,
        is_training=True,
        re_prob=augmentation["erase"],
        re_mode=augmentation["erase_mode"],
        re_count=augmentation["erase_count"],
        scale=augmentation["scale"],
        ratio=augmentation["ratio"],
        hflip=augmentation["horizontal_flip"],
        vflip=augmentation["vertical_flip"],
        color_jitter=augmentation["color_jitter"],
        auto_augment=augmentation["rand_augment"],
        num_aug_repeats=augmentation["repeats"],
        interpolation=augmentation["interpolation"],
        mean=recipe["normalisation"]["mean"],
        std=recipe["normalisation"]["std"],
        num_workers=workers,
        distributed=True,
        collate_fn=FastCollateMixup(**mixing) if is_prefetched else None,
        device=device,
        use_prefetcher=is_prefetched,
    )
    criterion = SoftTargetCrossEntropy()
    waited = 0.0
    ready = time.perf_counter()
    for step, (images, targets) in enumerate(batches):
        now = time.perf_counter()
        if step >= warm_up:
            waited += now - ready
        if mixup:
            images, targets = mixup(images, targets)
        images = images.contiguous(memory_format=layout)
        loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        loss.item()
        ready = time.perf_counter()
        if step + 1 == warm_up:
            start = ready
        if step + 1 == warm_up + repetitions:
            break
    seconds = ready - start
    print(json.dumps({"ms": seconds * 1e3 / (batch * repetitions), "waited": waited / seconds}), flush=True)
    # Workers that have batches in hand are not waited for.
    os._exit(0)


def measure_timm(options, recipe, data, way):
    arguments = [recipe, str(data), *way, options.threads, options.warm_up, options.repetitions]
    return run_worker("timm", *arguments, environment={**KEEP_MEMORY, **VECTORS[options.vectors]})


WORKERS = {"netkin": train_netkin, "timm": train_timm}


def run_worker(name, *arguments, environment={}):
    """Calls one of WORKERS in a process of its own; what it printed."""
    return json.loads(output_of([sys.executable, __file__, "--worker", json.dumps([name, *arguments])], environment))


# ---------------------------------------------------------------------------------------------------------------------
# The tables


def told(name, measured):
    print(f"{name}: {measured}", file=sys.stderr, flush=True)


def named(way):
    workers, loader, layout = way
    return f"{workers} worker{'' if workers == 1 else 's'}, {loader}, {layout}"


def verdict(value, bound):
    return "so it is" if value <= bound else "missed"


def throughput(options, scratch):
    printed = [options.netkin, "train", "--recipe", "deit-tiny", "--batch", str(options.batch), "--print-recipe", "--json"]
    recipe = json.loads(output_of(printed))
    # What it leaves out is the network's own.
    recipe.setdefault("input_size", 224)
    # Whole times 256 images, as repeated augmentation has it.
    images = -(-options.batch * (options.warm_up + options.repetitions + AHEAD) // 256) * 256
    data = write_images(scratch / f"photographs-{images}", images, 10, [(500, 375), (375, 500)])
    size = statistics.fmean(path.stat().st_size for path in (data / "different").iterdir())

    once = {}
    for way in itertools.product(options.workers, LOADERS, ["NCHW"]):
        once[way] = measure_timm(options, recipe, data, way)
        told(named(way), once[way])
    way = min(once, key=lambda way: once[way]["ms"])
    other = (*way[:2], "channels_last")
    once[other] = measure_timm(options, recipe, data, other)
    told(named(other), once[other])
    way = min(way, other, key=lambda way: once[way]["ms"])

    sides = [
        ("netkin", lambda: measure_netkin(options, data)),
        ("timm", lambda: measure_timm(options, recipe, data, way)),
    ]
    rounds = []
    for number in range(options.rounds):
        measured = {}
        for name, measure in sides if number % 2 == 0 else reversed(sides):
            measured[name] = measure()
            told(name, measured[name])
        rounds.append(measured)
    ratio = statistics.median(measured["netkin"]["ms"] / measured["timm"]["ms"] for measured in rounds)

    def row(name, how, of, ratio=""):
        ms, waited = (statistics.median(measured[key] for measured in of) for key in ("ms", "waited"))
        return f"| {name} | {how} | {ms:.1f} | {1e3 / ms:.1f} | {100 * waited:.0f} % | {ratio} |"

    yield "## Throughput"
    yield ""
    yield (
        f"{recipe['model']} at {recipe['input_size']} px by the recipe `deit-tiny` (random-resized crops, mirrored, "
        f"{recipe['augmentation']['rand_augment']}, erased, mixup and CutMix, three repeats, stochastic depth, label "
        f"smoothing, AdamW, moving average), batch {options.batch}, JPEG files of 500 × 375 and 375 × 500 pixels and "
        f"{size / 1e3:.0f} kB. Whole steps, after {options.warm_up} others. `waited` is the share of the time in which the network "
        "waited for images."
    )
    yield ""
    yield "| | how | ms per image | images/s | waited | netkin / timm |"
    yield "|---|---|---:|---:|---:|---:|"
    yield row("timm", named(way), [measured["timm"] for measured in rounds])
    yield row("netkin", f"{options.threads} threads", [measured["netkin"] for measured in rounds], f"**{ratio:.2f}**")
    yield ""
    yield f"Wanted is at most {BOUND}: {verdict(ratio, BOUND)}. What timm took in one way and another, each measured once:"
    yield ""
    yield "| timm's way | ms per image | waited |"
    yield "|---|---:|---:|"
    for other, measured in once.items():
        yield f"| {named(other)} | {measured['ms']:.1f} | {100 * measured['waited']:.0f} % |"
    yield ""


def memory(options, scratch):
    folders = {count: write_images(scratch / f"small-{count}", count, 100, [(64, 64)]) for count in (FEW, MANY)}
    size = statistics.fmean(path.stat().st_size for path in (folders[FEW] / "different").iterdir())
    yield "## Memory"
    yield ""
    yield (
        f"The most that `netkin train` held until its step {STEPS}, on JPEG files of 64 × 64 pixels and {size / 1e3:.1f} kB in 100 "
        "class folders, under names as long as ImageNet's."
    )
    yield ""
    yield f"| network | recipe | batch | {FEW:,} images, MiB | {MANY:,} images, MiB | more | bytes for an image |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    growth, each = {}, 0.0
    for network, name, batch in REMEMBERED:
        arguments = [network, "--recipe", name, "--batch", str(batch or options.batch)]
        held = {count: [] for count in folders}
        for _ in range(options.rounds):
            for count, folder in folders.items():
                held[count].append(run_netkin(options, arguments, folder, STEPS)["bytes"])
                told(f"{network}, {count} images", f"{held[count][-1] / 2**20:.1f} MiB")
        few, many = (statistics.median(held[count]) for count in (FEW, MANY))
        growth[network] = many / few - 1
        # Of the last network, beside whose own memory an image's share shows.
        each = (many - few) / (MANY - FEW)
        cells = [network, name, str(batch or options.batch), f"{few / 2**20:.1f}", f"{many / 2**20:.1f}"]
        yield "| " + " | ".join([*cells, f"{100 * growth[network]:+.1f} %", f"{each:.0f}"]) + " |"
    first = REMEMBERED[0][0]
    yield ""
    yield (
        f"Wanted is at most {100 * MEMORY_BOUND:.0f} % more for {first}: {verdict(growth[first], MEMORY_BOUND)}. Of an image, its "
        "name, its label and its place in an epoch's order stay in memory, and no pixels. At "
        f"{each:.0f} bytes for each, by the last row, ImageNet's {IMAGENET:,} take {each * IMAGENET / 2**20:.0f} MiB."
    )
    yield ""


PARTS = {"throughput": throughput, "memory": memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one of the tables")
    parser.add_argument("--batch", type=int, default=64, help="images in a step [64]")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="timm's worker processes that are tried [0 1 2]")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before those that are timed, at least 1 [3]")
    parser.add_argument("--repetitions", type=int, default=6, help="timed steps in each turn [6]")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both sides [5]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both sides [all cores]")
    parser.add_argument("--vectors", choices=VECTORS, default="widest", help="of both sides [widest]")
    parser.add_argument("--netkin", default="target/release/netkin", help="the program [target/release/netkin]")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="images are made and kept here [a folder that is removed]")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables here, too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, *arguments = json.loads(options.worker)
        return WORKERS[name](*arguments)

    if not Path(options.netkin).exists():
        sys.exit(f"{options.netkin} is not there; build it with `cargo build --release`, or give --netkin")
    if options.warm_up < 1:
        sys.exit("--warm-up is at least 1: time counts from the end of a step")
    # What `machine` says.
    options.device = "cpu"
    lines = [
        "# Training from image files: netkin beside timm",
        "",
        f"Printed by `{shlex.join(['python', 'scripts/training_table.py', *sys.argv[1:]])}`.",
        "",
        machine(options),
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, part in PARTS.items():
            if options.only in (None, name):
                try:
                    lines += part(options, options.scratch or Path(folder))
                except RuntimeError as error:
                    sys.exit(str(error))
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
