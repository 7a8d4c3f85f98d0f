"""Reference values of distillation losses and their gradients, by DeiT's own code.

    python scripts/distillation_reference.py --losses losses.py

`losses.py` is that file of github.com/facebookresearch/deit (commit 7e160fe43f0252d17191b71cbb5826254114ea5b has it). PyTorch and timm
compute in f64 on logits that a generator of random numbers draws here and in the test. Writes
tests/fixtures/training/distillation.json, which src/training/objective/distillation.rs is compared with.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import torch
from timm.loss import SoftTargetCrossEntropy

BATCH, CLASSES = 6, 10


def drawn(seed, count):
    """Numbers in [−0.5, 0.5): a linear congruential generator of 64 bits, whose first eight numbers are left out."""
    numbers = []
    for _ in range(count + 8):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        numbers.append((seed >> 11) / 2**53 - 0.5)
    return numbers[8:]


def logits(seed):
    return 8 * torch.tensor(drawn(seed, BATCH * CLASSES), dtype=torch.float64).reshape(BATCH, CLASSES)


def loss_module(path):
    spec = importlib.util.spec_from_file_location("losses", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(losses, kind, alpha, temperature, heads):
    """DeiT's loss of a student with two heads; with one head, that head is given twice."""
    teacher = logits(3)
    targets = torch.softmax(logits(4), 1)
    student = [logits(1 + head).requires_grad_() for head in range(heads)]
    outputs = (student[0], student[-1])
    criterion = losses.DistillationLoss(SoftTargetCrossEntropy(), lambda _: teacher, kind, alpha, temperature)
    total = criterion(None, outputs, targets)
    total.backward()
    return {
        "kind": kind,
        "alpha": alpha,
        "temperature": temperature,
        "heads": heads,
        "total": total.item(),
        "gradients": [head.grad.flatten().tolist() for head in student],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=Path, required=True, help="losses.py of DeiT")
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/training/distillation.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    losses = loss_module(arguments.losses)
    settings = [("hard", 0.5, 1.0), ("soft", 0.5, 1.0), ("soft", 0.1, 3.0), ("soft", 1.0, 2.0), ("hard", 0.0, 1.0)]
    cases = [case(losses, *setting, heads) for setting in settings for heads in (2, 1)]
    document = {"batch": BATCH, "classes": CLASSES, "cases": cases}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
