#!/usr/bin/env python3
"""Reference values for netkin's training: learning rates, and networks after five steps.

    pip install torch timm numpy
    OMP_NUM_THREADS=1 python scripts/training_reference.py

writes `tests/fixtures/training/schedule.json` (timm's cosine schedule with warm-up and cooldown, read by src/training/schedule.rs) and
`tests/fixtures/training/step.json` (read by tests/training_step.rs): deit_tiny_patch16_224 at 32 pixels and resnet18 at 64 pixels with
eight classes, filled by the formula of `timm_reference.py`, so that no weights need to be stored, take five steps of AdamW, SGD
and LAMB on one batch, in double precision and in training mode. Of each tensor after the steps, the norm, a random projection and
one value are kept, and the losses of all steps; of one run also the moving average of the weights.

The rates are those of a warm-up. At larger ones five steps in single precision lead PyTorch itself further than 1e-4 away from
five in double precision: the first steps of AdamW and LAMB have the length of the rate whatever the gradient, and where that is zero
but for rounding (keys' biases, kinks of ReLU) rounding decides where they go.
"""

import json
import math
from pathlib import Path

import numpy
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from timm_reference import bits, parameter_values, state, to_tensor, uniform

FOLDER = Path(__file__).resolve().parent.parent / "tests/fixtures/training"

# ---------------------------------------------------------------------------------------------------------------------
# Learning rates

SCHEDULES = [
    # DeiT's, in ten epochs.
    (1e-3, dict(warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=0, per="epoch"), 10, 1),
    (1e-3, dict(warmup_epochs=3, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=2, per="step"), 12, 4),
    (0.1, dict(warmup_epochs=0, warmup_lr=0.0, min_lr=0.0, cooldown_epochs=0, per="step"), 3, 5),
    (0.5, dict(warmup_epochs=1, warmup_lr=0.0, min_lr=1e-3, cooldown_epochs=3, per="epoch"), 4, 1),
    (2e-3, dict(warmup_epochs=1, warmup_lr=1e-6, min_lr=0.0, cooldown_epochs=0, per="step"), 2, 7),
]


def rates(peak, options, epochs, steps):
    """The rate of each step of each epoch, as timm's train.py comes to it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    on_epochs = options["per"] == "epoch"
    names = ("warmup_epochs", "warmup_lr", "min_lr", "cooldown_epochs")
    scheduler, total = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        step_on_epochs=on_epochs,
        updates_per_epoch=steps,
        **{name: options[name] for name in names},
    )
    assert total == epochs + options["cooldown_epochs"]
    found, updates = [], 0
    for epoch in range(total):
        found.append([])
        for _ in range(steps):
            found[-1].append(optimizer.param_groups[0]["lr"])
            updates += 1
            scheduler.step_update(num_updates=updates)
        scheduler.step(epoch + 1)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Five steps

CLASSES, BATCH, STEPS = 8, 8, 5
# Such that targets are numbers of single precision: 7/8 + 1/64 and 1/64.
SMOOTHING = 0.125

NETWORKS = {
    "deit_tiny_patch16_224": (32, lambda: timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=CLASSES)),
    "resnet18": (64, lambda: timm.create_model("resnet18", num_classes=CLASSES)),
}

# The name in a recipe, what timm calls it, its options there, clipping of gradients by torch, decay of the moving average.
OPTIMIZERS = [
    dict(name="adamw", lr=2e-6, weight_decay=0.05, clip_norm=0.0, ema_decay=0.9),
    # timm's sgd is Nesterov's.
    dict(name="sgd", lr=1e-3, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.0),
    # Clips by itself, at a norm of 1.
    dict(name="lamb", lr=1e-5, weight_decay=0.02, clip_norm=None, ema_decay=0.0),
]


def images(pixels):
    """Bytes [image, row, column, channel]; tests/training_step.rs makes the same."""
    count = BATCH * pixels * pixels * 3
    values = (bits("images", count) >> numpy.uint64(56)).astype(numpy.uint8)
    return values.reshape(BATCH, pixels, pixels, 3)


def network_inputs(pixels):
    # Divided in single precision, as images are read.
    values = images(pixels).astype(numpy.float32) / numpy.float32(255.0)
    return (torch.from_numpy(values).permute(0, 3, 1, 2).contiguous().double() - 0.5) / 0.5


def digest(tensor):
    """The norm, a random projection and one value."""
    values = tensor.detach().double().numpy().ravel()
    place = int(bits("samples", 1)[0] % numpy.uint64(values.size))
    numbers = [numpy.linalg.norm(values), values @ uniform("projection0", values.size), values[place]]
    return [float(f"{number:.12g}") for number in numbers]


def steps(build, pixels, options, dtype=torch.float64):
    """The losses of five steps, the network after them, and the moving average if there is one."""
    model = build().to(dtype).train()
    with torch.no_grad():
        for key, tensor in state(model).items():
            tensor.copy_(to_tensor(parameter_values(key, tensor.shape, 1.0), tensor.shape))
    optimizer = create_optimizer_v2(
        model, opt=options["name"], lr=options["lr"], weight_decay=options["weight_decay"], momentum=0.9
    )
    ema = ModelEmaV3(model, decay=options["ema_decay"]) if options["ema_decay"] else None
    inputs = network_inputs(pixels).to(dtype)
    labels = torch.arange(BATCH) * 3 % CLASSES
    losses = []
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(model(inputs), labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        if options["clip_norm"]:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"])
            assert norm > options["clip_norm"], "clipping does nothing"
        optimizer.step()
        if ema:
            ema.update(model)
        losses.append(loss.item())
    return losses, model, ema and ema.module


def main():
    schedules = [
        dict(peak=peak, options=options, epochs=epochs, steps=steps, rates=rates(peak, options, epochs, steps))
        for peak, options, epochs, steps in SCHEDULES
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "schedule.json").write_text(json.dumps(schedules, separators=(",", ":")) + "\n")

    networks = []
    for name, (pixels, build) in NETWORKS.items():
        runs = []
        for options in OPTIMIZERS:
            losses, model, ema = steps(build, pixels, options)
            assert all(math.isfinite(loss) for loss in losses)
            tensors = state(model)
            keys = sorted(tensors)
            runs.append(
                dict(
                    **options,
                    losses=losses,
                    tensors=[digest(tensors[key]) for key in keys],
                    average=[digest(state(ema)[key]) for key in keys] if ema else None,
                )
            )
        networks.append(dict(name=name, pixels=pixels, keys=keys, runs=runs))
    text = json.dumps(dict(timm=timm.__version__, torch=torch.__version__, networks=networks), separators=(",", ":"))
    (FOLDER / "step.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
