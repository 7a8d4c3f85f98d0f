"""What other programs make of features, for the tests of src/similarity/features/.

    pip install torch dcor pytorch-cka repsim
    python scripts/features_reference.py          # writes tests/fixtures/features/reference.json

Distance correlations and the partial one are PyPI dcor's; unbiased linear CKA and its mini-batches pytorch-cka's; biased CKA,
linear and Gaussian, repsim's; the Procrustes distance follows from SciPy's orthogonal_procrustes. The semi-partial form,
unbiased CKA with Gaussian kernels of another width, and all gradients are PyTorch's on the definitions below, matrix by matrix,
in f64.

Features are drawn by a generator that src/similarity/features/mod.rs has, too, so that no features need to be kept.
"""

import json
import math
import pathlib

import dcor
import numpy as np
import repsim
import torch
from cka.hsic import hsic
from scipy.linalg import orthogonal_procrustes

ROOT = pathlib.Path(__file__).resolve().parent.parent
# (seed, images, features of x, y and z): few images, more images than features, fewer, and more than one block.
CASES = [(1, 5, (3, 3, 2)), (2, 64, (20, 7, 5)), (3, 40, (300, 11, 4)), (4, 290, (24, 150, 9))]
GRADIENTS = (5, 12, (4, 6, 3))
BANDWIDTH = 0.8


def drawn(seed, count):
    state, numbers = seed, []
    for index in range(count + 8):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        if index >= 8:
            numbers.append((state >> 11) / 2**53 - 0.5)
    return np.array(numbers)


def related(seed, images, widths):
    """Three sets of features that have something in common."""
    width = widths[0]
    x = drawn(seed, images * width).reshape(images, width)

    def mixed(seed, to):
        image = x @ drawn(seed, width * to).reshape(width, to) / math.sqrt(width)
        return image + 0.3 * drawn(seed + 1, images * to).reshape(images, to)

    return x, mixed(seed + 10, widths[1]), mixed(seed + 20, widths[2])


# ---------------------------------------------------------------------------------------------------------------------
# The definitions, in PyTorch


def distances(x):
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def doubly_centred(a):
    return a - a.mean(0, keepdim=True) - a.mean(1, keepdim=True) + a.mean()


def u_centred(a):
    n = len(a)
    a = a - torch.diag(torch.diagonal(a))
    rows, columns = a.sum(1, keepdim=True), a.sum(0, keepdim=True)
    centred = a - rows / (n - 2) - columns / (n - 2) + a.sum() / ((n - 1) * (n - 2))
    return centred * (1 - torch.eye(n, dtype=a.dtype))


def correlation(a, b):
    """The number of pairs that inner products are divided by cancels."""
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


def without(a, c):
    return a - (a * c).sum() / (c * c).sum() * c


def diverge(x, y):
    a, b = (doubly_centred(distances(z / z.norm(dim=1, keepdim=True))) for z in (x, y))
    inner = lambda a, b: (a * b).mean()
    return inner(a, b) / (inner(a, a) * inner(b, b) + 1e-9).sqrt()


def u_distances(*sets):
    return [u_centred(distances(x)) for x in sets]


def partial(x, y, z):
    a, b, c = u_distances(x, y, z)
    return correlation(without(a, c), without(b, c))


def semi_partial(x, y, z):
    a, b, c = u_distances(x, y, z)
    return correlation(without(a, c), b)


LOSSES = {
    "biased": lambda x, y, z: correlation(doubly_centred(distances(x)), doubly_centred(distances(y))),
    "unbiased": lambda x, y, z: correlation(*u_distances(x, y)),
    "partial": partial,
    "semi_partial": semi_partial,
    "diverge": lambda x, y, z: diverge(x, y),
}


def gaussian(x):
    a = distances(x)
    # torch.median takes the lower of two middle values; NumPy their mean.
    median = np.median(a[tuple(torch.triu_indices(len(x), len(x), 1))].numpy())
    return torch.exp(-((a / (BANDWIDTH * median)) ** 2) / 2)


# ---------------------------------------------------------------------------------------------------------------------


def ratio(batches):
    """pytorch-cka's HSIC₁ of linear kernels, added over mini-batches."""
    xy, xx, yy = (sum(part) for part in zip(*(hsic(x @ x.mT, y @ y.mT) for x, y in batches)))
    return (xy / (xx * yy).sqrt()).item()


def biased_cka(x, y, kernel):
    """repsim's; its Gaussian kernels are as wide as the median distance."""
    return float(np.asarray(repsim.cka([x, y], kernel_type=kernel, estimator="gretton"))[0, 1])


def procrustes(x, y):
    width = max(x.shape[1], y.shape[1])

    def prepared(x):
        x = np.pad(x - x.mean(0), ((0, 0), (0, width - x.shape[1])))
        return x / np.linalg.norm(x)

    x, y = prepared(x), prepared(y)
    rotation, _ = orthogonal_procrustes(x, y)
    return float(np.linalg.norm(x @ rotation - y) ** 2)


def values(x, y, z):
    tx, ty, tz = (torch.from_numpy(features) for features in (x, y, z))
    batch = max(len(x) // 2, 4)
    batches = [(tx[None, i : i + batch], ty[None, i : i + batch]) for i in range(0, len(x) - 3, batch)]
    kernels = gaussian(tx), gaussian(ty)
    return {
        "u_distance_correlation_sqr": dcor.u_distance_correlation_sqr(x, y),
        "distance_correlation_sqr": dcor.distance_correlation_sqr(x, y),
        "partial_distance_correlation": dcor.partial_distance_correlation(x, y, z),
        "semi_partial": semi_partial(tx, ty, tz).item(),
        "cka_linear_biased": biased_cka(x, y, "linear"),
        "cka_linear_unbiased": ratio([(tx[None], ty[None])]),
        "cka_linear_mini_batches": ratio(batches),
        "cka_rbf_biased": biased_cka(x, y, "rbf"),
        "cka_rbf_unbiased": correlation(*map(u_centred, kernels)).item(),
        "procrustes": procrustes(x, y),
    }


def gradients(seed, images, widths):
    losses = {}
    for name, loss in LOSSES.items():
        sets = [torch.from_numpy(features).requires_grad_() for features in related(seed, images, widths)]
        value = loss(*sets)
        value.backward()
        of = lambda x: torch.zeros_like(x) if x.grad is None else x.grad
        losses[name] = {"value": value.item()} | {name: of(x).flatten().tolist() for name, x in zip("xyz", sets)}
    return {"seed": seed, "images": images, "widths": widths, "losses": losses}


def main():
    cases = [
        {"seed": seed, "images": images, "widths": widths, "values": values(*related(seed, images, widths))}
        for seed, images, widths in CASES
    ]
    path = ROOT / "tests/fixtures/features/reference.json"
    document = {"cases": cases, "gradients": gradients(*GRADIENTS)}
    path.write_text(json.dumps(document, separators=(",", ":"), default=float) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
