#!/usr/bin/env python3
"""Small files as people save adversarial images by PyTorch, for the tests of src/arrays/ and src/images/stack.rs.

    python scripts/array_fixtures.py        # needs torch; writes tests/fixtures/arrays/*.pt

Three images of 3 x 4 x 5 pixels, of which the number at place i is (37 i mod 256) / 255; their labels are 7, 0 and 3.
"""
import pathlib

import torch

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/arrays"


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    levels = (torch.arange(3 * 3 * 4 * 5) * 37 % 256).to(torch.uint8).reshape(3, 3, 4, 5)
    pixels = levels.double() / 255
    labels = torch.tensor([7, 0, 3])
    half = pixels.half()
    files = {
        # torch.save(attack(images, labels), …)
        "bare.pt": (pixels.float(), 2),
        # As torchattacks' Attack.save leaves them with save_type="int".
        "torchattacks.pt": ({"adv_inputs": levels, "labels": labels, "save_type": "int"}, 2),
        "pair.pt": ((pixels, labels.int()), 2),
        # A later protocol of pickles, and two views of one storage.
        "nested.pt": ({"x": {"adversarial": half, "half": half[2:]}, "eps": 0.1, "steps": [10, None, True]}, 4),
        # Channels last in memory, channels first by strides.
        "turned.pt": (pixels.float().to(memory_format=torch.channels_last), 2),
        "complex.pt": (torch.zeros(2, dtype=torch.complex64), 2),
    }
    for name, (thing, protocol) in files.items():
        torch.save(thing, FOLDER / name, pickle_protocol=protocol)
        print(f"{name}: {(FOLDER / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
