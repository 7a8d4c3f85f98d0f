"""Writes weights/tests/fixtures/resnet10t*.pth: checkpoints as PyTorch writes them, small enough to keep.

    pip install torch timm
    python scripts/pth_fixtures.py

Every tensor is an overlapping view of one small storage, so that a file holds a few kilobytes for five million numbers:
the number at [i, j, …] is storage[i + j + …], and storage[k] = ((37 k) mod 257 − 128) / 256.
"""

from pathlib import Path

import timm
import torch

FOLDER = Path(__file__).parent.parent / "weights" / "tests" / "fixtures"
STORAGE = ((torch.arange(2048) * 37 % 257 - 128) / 256).float()


def view(parameter):
    if not parameter.is_floating_point():
        return torch.tensor(5)
    return STORAGE.as_strided(parameter.shape, [1] * parameter.dim())


model = timm.create_model("resnet10t")
weights = {key: view(parameter) for key, parameter in model.state_dict().items()}

FOLDER.mkdir(parents=True, exist_ok=True)
torch.save(weights, FOLDER / "resnet10t.pth")
training = {
    "epoch": 3,
    "arch": "resnet10t",
    "state_dict": {key: torch.zeros(()).expand(tensor.shape) for key, tensor in weights.items()},
    "state_dict_ema": weights,
    "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}
torch.save(training, FOLDER / "resnet10t_training.pth")
parallel = {f"module.{key}": tensor for key, tensor in weights.items()}
torch.save(parallel, FOLDER / "resnet10t_before_1.6.pth", _use_new_zipfile_serialization=False)
