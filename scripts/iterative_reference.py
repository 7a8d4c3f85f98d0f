"""What others' iterative attacks do to a tiny network, for the tests of src/attacks/iterative.rs.

    git clone https://github.com/Harry24k/adversarial-attacks-pytorch
    git clone https://github.com/Trustworthy-AI-Group/TransferAttack
    pip install torch scipy blake3 requests pandas timm
    python scripts/iterative_reference.py --torchattacks adversarial-attacks-pytorch --transferattack TransferAttack

writes tests/fixtures/attacks/iterative.json. Network and images are those of attack_reference.py, in f64. Where an attack draws
noise, it gets what netkin draws there (BLAKE3 keyed by purpose, seed and image; see src/noise.rs). Where it draws sizes, places,
angles and orders (DI, BSR), those are kept, for netkin to do the same. Of each run, the fingerprint of everything that the network
was shown is kept, image by image, and those of the results; of DI and BSR the results themselves, too.
"""
import argparse
import json
import pathlib
import random
import struct
import sys

import numpy
import torch
from blake3 import blake3

import attack_reference as reference

EPS, STEPS, SEEDS = 0.06, 10, (0, 1, 2)


class Module(torch.nn.Module):
    """The network as a torch module that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.network = reference.Network()
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self.shown = []

    def forward(self, x):
        # Several views of a batch come one after another.
        self.shown += [reference.fingerprint(image) for image in x.detach()]
        return self.network(x)


class Noise:
    """Tensor.uniform_ gives netkin's noise while this is entered; `turns` name it: (step, turn) of each draw."""

    def __init__(self, purpose, turns):
        self.purpose, self.turns = purpose, iter(turns)

    def of_image(self, seed, step, turn):
        name = f"{seed}.png\0{0}\0{step}\0{turn}\0{0}".encode()
        stream = blake3(derive_key_context=self.purpose)
        stream.update(struct.pack("<Q", 0) + name)
        words = struct.unpack(f"<{reference.PIXELS}I", stream.digest(length=4 * reference.PIXELS))
        return torch.tensor([(word >> 8) / (1 << 23) - 1 for word in words]).reshape(reference.SHAPE)

    def __enter__(self):
        self.kept = torch.Tensor.uniform_

        def uniform(tensor, low, high):
            # A single number is an angle.
            if tensor.numel() == 1:
                return self.kept(tensor, low, high)
            assert low == -high
            step, turn = next(self.turns)
            return tensor.copy_(high * torch.stack([self.of_image(seed, step, turn) for seed in SEEDS]))

        torch.Tensor.uniform_ = uniform

    def __exit__(self, *_):
        torch.Tensor.uniform_ = self.kept


class Drawn:
    """Keeps what DI and BSR draw while this is entered: a list of all numbers for each call of `transform`, the attack's method of
    that name."""

    def __init__(self, attack, transform):
        self.attack, self.name, self.calls = attack, transform, []

    def keeping(self, draw, value=lambda drawn: drawn.item()):
        def kept(*arguments, **options):
            drawn = draw(*arguments, **options)
            self.calls[-1].append(value(drawn))
            return drawn

        return kept

    def shuffle(self, items):
        order = list(range(len(items)))
        self.kept[2](order)
        items[:] = [items[index] for index in order]
        self.calls[-1].append(order)

    def __enter__(self):
        from torchvision.transforms import RandomRotation

        self.kept = torch.rand, torch.randint, random.shuffle, RandomRotation.get_params
        torch.rand, torch.randint = self.keeping(torch.rand), self.keeping(torch.randint)
        random.shuffle = self.shuffle
        RandomRotation.get_params = staticmethod(self.keeping(self.kept[3], float))
        transform = getattr(self.attack, self.name)

        def called(*arguments, **options):
            self.calls.append([])
            return transform(*arguments, **options)

        setattr(self.attack, self.name, called)
        if hasattr(self.attack, "get_length"):
            lengths = lambda drawn: [int(length) for length in drawn]
            self.attack.get_length = self.keeping(self.attack.get_length, lengths)
        return self

    def __exit__(self, *_):
        from torchvision.transforms import RandomRotation

        torch.rand, torch.randint, random.shuffle = self.kept[:3]
        RandomRotation.get_params = staticmethod(self.kept[3])

    def placings(self, is_used):
        """Of each call the size and the upper left corner of a resized image, or None; `is_used` takes the call's numbers apart."""
        return [{"resized": placing[0], "corner": placing[1:]} if used else None for used, placing in map(is_used, self.calls)]

    def blocks(self):
        """Of each call the axis of the strips (0: each is some rows), their lengths, their order, and in that order each one's angle
        in degrees and the lengths and order of its pieces."""

        def of(call):
            axes, lengths, order, *rest = call
            strips = [dict(zip(("degrees", "lengths", "order"), rest[at : at + 3])) for at in range(0, len(rest), 3)]
            return {"axis": axes[0], "lengths": lengths, "order": order, "strips": strips}

        return [of(call) for call in self.calls]


def pixels():
    return torch.cat([reference.images(seed, 1) for seed in SEEDS])


def record(name, settings, module, run):
    x = pixels()
    labels = module.network(x).argmax(1)
    module.shown.clear()
    result = run(x, labels)
    return {
        "attack": name,
        "settings": settings,
        "shown": list(module.shown),
        "result": [reference.fingerprint(image) for image in result.detach()],
    }


def drawn(name, settings, run, transform, draws):
    """As `record`, with what was drawn and the results themselves."""
    module, attack, attacked = run
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    results = []

    def keep(x, labels):
        results.append(attacked(x, labels).detach())
        return results[0]

    with Drawn(attack, transform) as kept:
        kept_record = record(name, {"eps": EPS, **settings}, module, keep)
    values = [float(f"{value:.12g}") for value in results[0].flatten().tolist()]
    return {**kept_record, "draws": draws(kept), "pixels": values}


def of_torchattacks():
    import torchattacks

    def diverse():
        module = Module()
        attack = torchattacks.DIFGSM(module, eps=EPS, alpha=step, steps=STEPS, decay=1.0, resize_rate=0.5, diversity_prob=0.7)
        attack.set_model_training_mode(model_training=False)
        return module, attack, attack

    noise = lambda count: Noise("netkin attack neighbours", [(step, turn + 1) for step in range(STEPS) for turn in range(count)])
    step = EPS / STEPS
    rows = [
        ("fgsm", {}, "FGSM", dict(eps=EPS)),
        ("bim", {}, "BIM", dict(eps=EPS, alpha=step, steps=STEPS)),
        ("pgd", {"no_random_start": True, "steps": STEPS, "step_size": step}, "PGD", dict(eps=EPS, alpha=step, steps=STEPS, random_start=False)),
        ("pgd", {"no_random_start": True, "steps": STEPS, "norm": "l2", "eps": 0.5, "step_size": 0.2}, "PGDL2", dict(eps=0.5, alpha=0.2, steps=STEPS, random_start=False)),
        ("mi-fgsm", {}, "MIFGSM", dict(eps=EPS, alpha=step, steps=STEPS, decay=1.0)),
        ("ni-fgsm", {}, "NIFGSM", dict(eps=EPS, alpha=step, steps=STEPS, decay=1.0)),
        ("si-ni-fgsm", {}, "SINIFGSM", dict(eps=EPS, alpha=step, steps=STEPS, decay=1.0, m=5)),
        ("ti-fgsm", {"translation": 5}, "TIFGSM", dict(eps=EPS, alpha=step, steps=STEPS, decay=1.0, len_kernel=5, diversity_prob=0.0)),
        ("vmi-fgsm", {"variance": 3}, "VMIFGSM", dict(eps=EPS, alpha=step, steps=STEPS, decay=1.0, N=3, beta=1.5)),
        ("vni-fgsm", {"variance": 3}, "VNIFGSM", dict(eps=EPS, alpha=step, steps=STEPS, decay=1.0, N=3, beta=1.5)),
    ]  # fmt: skip
    for name, settings, theirs, options in rows:
        module = Module()
        attack = getattr(torchattacks, theirs)(module, **options)
        attack.set_model_training_mode(model_training=False)
        if hasattr(attack, "stacked_kernel"):
            # Theirs, not rounded to f32.
            attack.stacked_kernel = torch.from_numpy(attack.gkern(attack.len_kernel, attack.nsig)).expand(3, 1, -1, -1)
        with noise(settings.get("variance", 0)):
            yield record(name, {"eps": EPS, **settings}, module, attack)
    # Theirs draws a place first and then whether to use it.
    used = lambda call: (call[3] < 0.7, call[:3])
    yield drawn("di-fgsm", {"diversity": 0.7, "diversity_rate": 0.5}, diverse(), "input_diversity", lambda kept: kept.placings(used))


def of_transferattack():
    from transferattack.gradient.mifgsm import MIFGSM
    from transferattack.gradient.pgn import PGN
    from transferattack.input_transformation.admix import Admix
    from transferattack.input_transformation.bsr import BSR
    from transferattack.input_transformation.dim import DIM
    from transferattack.input_transformation.sim import SIM

    def run(make, options, noise=(), steps=STEPS):
        module = Module()
        named = type("Named", (make,), {"load_model": lambda self, _: module})
        attack = named(None, epsilon=EPS, alpha=EPS / steps, epoch=steps, device="cpu", **options)

        def attacked(x, labels):
            with Noise("netkin attack neighbours", noise):
                return x + attack(x, labels)

        return module, attack, attacked

    turns = [(step, 2 * turn) for step in range(STEPS) for turn in range(3)]
    module, _, attacked = run(PGN, {"num_neighbor": 3}, turns)
    yield record("pgn", {"eps": EPS, "flat": 3}, module, attacked)
    for name, make in (("mi-fgsm", MIFGSM), ("si-fgsm", SIM)):
        module, _, attacked = run(make, {})
        yield record(name, {"eps": EPS}, module, attacked)

    # The image is left as it is where the first number is larger than the probability.
    used = lambda call: (len(call) > 1, call[1:4])
    diverse = run(DIM, {"resize_rate": 1.5, "diversity_prob": 0.7})
    yield drawn("di-fgsm", {"diversity": 0.7, "diversity_rate": 1.5}, diverse, "transform", lambda kept: kept.placings(used))
    shuffled = run(BSR, {"num_scale": 2, "num_block": 3})
    yield drawn("bsr", {"shuffle": 2, "blocks": 3}, shuffled, "shuffle", Drawn.blocks)

    # Two images, each mixed into the other; of a pool of 8-bit images, so both are. One step: afterwards, theirs mixes in images that
    # were attacked themselves.
    module, _, attacked = run(Admix, {"num_admix": 1}, steps=1)
    x = (pixels()[:2] * 255).round() / 255
    labels = torch.tensor([3, 4])
    kept, torch.randperm = torch.randperm, lambda count: torch.tensor([1, 0])
    result = attacked(x, labels)
    torch.randperm = kept
    yield {
        "attack": "admix",
        "settings": {"eps": EPS, "admix": 1, "steps": 1},
        "shown": [],
        "result": [reference.fingerprint(image) for image in result.detach()],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchattacks", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--transferattack", type=pathlib.Path, required=True, metavar="DIR")
    options = parser.parse_args()
    sys.path[:0] = [str(options.torchattacks), str(options.transferattack)]
    torch.set_default_dtype(torch.float64)
    reference.FINGER = reference.Stream(2).unit(reference.PIXELS)
    records = [*of_torchattacks(), *of_transferattack()]
    out = reference.ROOT / "tests/fixtures/attacks/iterative.json"
    out.write_text(json.dumps({"records": records}) + "\n")
    print(f"{len(records)} records in {out}")


if __name__ == "__main__":
    main()
