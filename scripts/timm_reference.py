#!/usr/bin/env python3
"""Reference values of timm's networks for netkin's test `architectures/tests/timm.rs`.

    pip install torch timm numpy
    python scripts/timm_reference.py resnet18 demo_resnet      # these networks
    netkin models --json | python scripts/timm_reference.py -  # all registered networks
    python scripts/timm_reference.py --keys resnet18           # timm's parameter keys and shapes, nothing else

Each network is built by timm without weights, and every parameter and buffer is filled with numbers computed from its
name and the index alone (see `parameter_values`); netkin computes the same numbers, so that no weights need to be
stored. Then logits, pooled features, and the gradient of the mean cross-entropy with respect to the pixels are computed
in double precision, and a digest of each (its norm, some values, some random projections) is written as one line of JSON
to `architectures/tests/fixtures/timm/FAMILY.jsonl`. Lines of other networks stay as they are. The same call gives the
same lines, up to the last digit where another machine adds in another order.

gluon_xception65 left timm after 0.6.13, whose values it has:

    pip install --no-deps --target FOLDER timm==0.6.13
    PYTHONPATH=FOLDER python scripts/timm_reference.py gluon_xception65
"""

import argparse
import copy
import json
import math
import os
import re
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy
import timm
import torch
from timm.models import convnext, efficientnet, mlp_mixer, resnet, vision_transformer

# ---------------------------------------------------------------------------------------------------------------------
# Configuration

DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "architectures/tests/fixtures/timm"

# Height and width for networks that take any: small, not square, and odd after halving here and there.
FREE_SIZE = (72, 61)

# Above either, a network of a fixed input size gets one image in place of two.
LARGE_PIXELS = 224 * 224
LARGE_PARAMETERS = 50_000_000

# Factors for the weights, of which the first is taken that lets features of two images differ by the first share below
# at least, and single precision change them by the second at most, half of what the test allows: where gates and
# activations shrink what they let through, small weights would leave nothing of the image; where many gates in a row
# enlarge it, large ones would make of every rounding what no single precision withstands.
GAINS = (1.0, 1.25, 1.5, 1.75, 2.0, 0.375, 1.4, 1.3, 0.7, 1.1, 1.2, 0.9, 1.6, 0.5, 1.45, 0.6, 1.42, 1.53, 1.55)
LEAST_DIFFERENCE = 0.002
MOST_ROUNDING = 5e-5
# Nor may rounding turn the sign of more of the gradient than this leaves: near the kinks of ReLU and max-pooling it decides
# which way the gradient goes, and each processor rounds in its own way.
LEAST_SIGNS = 0.997
# Nor may the features' norm be above this: values that grow from block to block leave attention nothing but its largest score.
LARGEST_NORM = 1e3

SAMPLES = 8
PROJECTIONS = 4

# Images for networks, or all of a timm file, that are built for one size but can be built for others, smaller where the
# usual ones would take long, or that need larger ones than FREE_SIZE: name or file -> pixels both ways, or height and width.
SIZES = {
    "convit": 96,
    "convit_tiny": 224,
    "cait": 48,
    "coat": 64,
    "coat_lite_mini": FREE_SIZE,
    "coat_tiny": (64, 96),
    "crossvit": (136, 109),
    "dla": 64,
    "dla34": (64, 96),
    "hrnet": 64,
    "hrnet_w18_small": (64, 96),
    "inception_resnet_v2": 107,
    "inception_v3": 107,
    "inception_v4": 107,
    "pit": 112,
    "pit_ti_224": 224,
    "nest": 64,
    "nest_tiny_jx": 224,
    "swin_transformer": 96,
    "swin_transformer_v2": 96,
    "swin_tiny_patch4_window7_224": 224,
    "swin_s3_tiny_224": 224,
    "tnt": 48,
    "tnt_s_patch16_224": (48, 80),
    "visformer": 96,
    "visformer_tiny": 224,
    # Others of their kind have their own size.
    **dict.fromkeys(("deit_base_patch16_224", "deit_base_patch16_384", "deit_base_distilled_patch16_384"), 96),
    **dict.fromkeys(("deit3_base_patch16_224", "deit3_base_patch16_384", "deit3_medium_patch16_224"), 96),
    **dict.fromkeys(("deit3_small_patch16_384", "vit_base_patch16_384"), (96, 64)),
    # Odd numbers of tokens, and fewer than windows have, both ways or one.
    "swin_small_patch4_window7_224": (104, 40),
    "swinv2_tiny_window8_256": (104, 40),
    "vision_transformer_hybrid": 96,
    "vit_tiny_patch16_224": (96, 64),
    "vit_tiny_r_s16_p8_224": (64, 96),
    "lambda_resnet26t": (96, 64),
    # Whole blocks at a 32nd of the size.
    "eca_halonext26ts": 256,
    "halonet26t": 256,
    "halonet50ts": 256,
    "halonet_h1": 256,
    "haloregnetz_b": 224,
    "sehalonet33ts": 256,
}

# Timm files whose networks take images of any size, though timm calls theirs fixed.
FREE = {"crossvit", "twins", "xcit"}

# Of these, what is built for a smaller size than its own, to which it brings the images: name or file -> pixels, both ways.
BUILT = {"crossvit": 120, "crossvit_15_dagger_408": 204, "crossvit_18_dagger_408": 204}

# Modules that are compared besides what timm's `feature_info` names: a pattern of their paths.
ALSO = {
    "dla34": r"level[34]\.tree1(\.tree[12])?",
    "hrnet_w18": r"layer1|stage[234]\.0(\.branches\.\d)?",
}

# Where timm spreads over two files what is one family here.
FAMILY_OF_MODULE = {
    "byoanet": "byobnet",
    "deit": "vision_transformer",
    "hardcorenas": "mobilenetv3",
    "swin_transformer_v2": "swin_transformer",
    "vision_transformer_hybrid": "vision_transformer",
}

# What timm sets for published weights only.
OPTIONS = {"fbnetc_100": {"bn_eps": 1e-3}}


def small_resnet(block, channels, stem=(16, 16, 24), **options):
    """A ResNet of four blocks whose stem has any three widths; timm's constructor knows only some."""
    first, second, third = stem
    assert third % 2 == 0
    model = resnet.ResNet(
        block, (1, 1, 1, 1), num_classes=10, channels=channels, stem_type="deep", stem_width=third // 2, avg_down=True,
        **options,
    )  # fmt: skip
    convolution = partial(torch.nn.Conv2d, kernel_size=3, padding=1, bias=False)
    model.conv1[0] = convolution(3, first, stride=2)
    model.conv1[1] = torch.nn.BatchNorm2d(first)
    model.conv1[3] = convolution(first, second)
    model.conv1[4] = torch.nn.BatchNorm2d(second)
    model.conv1[6] = convolution(second, third)
    return model


def small_vision_transformer(patch_size, embed_dim, depth, num_heads, mlp_ratio):
    return vision_transformer.VisionTransformer(
        img_size=28, patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio,
        num_classes=10,
    )  # fmt: skip


def small_mixer(**options):
    return mlp_mixer.MlpMixer(img_size=28, patch_size=4, embed_dim=64, num_blocks=4, num_classes=10, **options)


def small_convnext():
    model = convnext.ConvNeXt(patch_size=2, depths=(1, 1, 2, 1), dims=(20, 32, 48, 64), num_classes=10)
    # timm halves the image once more before the first stage if the patch is 2; 28 pixels do not allow that.
    model.stages[0].downsample = torch.nn.Identity()
    return model


def small_efficientnet(stages, **options):
    blocks = efficientnet.decode_arch_def([[stage] for stage in stages])
    return efficientnet.EfficientNet(blocks, num_classes=10, num_features=160, stem_size=16, **options)


# netkin's own small networks: name -> family, fixed input size or None, constructor.
DEMO = {
    "demo_convnext": (
        "convnext",
        None,
        small_convnext,
    ),
    "demo_efficientnet": (
        "efficientnet",
        None,
        lambda: small_efficientnet(
            ["ds_r1_k3_s1_c16_se0.25", "ir_r2_k3_s2_e4_c24_se0.25", "ir_r2_k5_s2_e4_c40_se0.25", "ir_r1_k3_s1_e4_c56_se0.25"],
            act_layer=torch.nn.SiLU,
        ),
    ),
    "demo_gmlp": (
        "mlp_mixer",
        (28, 28),
        lambda: small_mixer(block_layer=mlp_mixer.SpatialGatingBlock, mlp_ratio=4, mlp_layer=mlp_mixer.GatedMlp),
    ),
    "demo_mixer": ("mlp_mixer", (28, 28), small_mixer),
    "demo_mobilenetv2": (
        "efficientnet",
        None,
        lambda: small_efficientnet(
            ["ds_r1_k3_s1_c16", "ir_r2_k3_s2_e4_c24", "ir_r2_k3_s2_e4_c40", "ir_r1_k3_s1_e4_c56"],
            act_layer=torch.nn.ReLU6,
        ),
    ),
    "demo_resnet": ("resnet", None, lambda: small_resnet(resnet.BasicBlock, (24, 48, 64, 96))),
    "demo_resnext": (
        "resnet",
        None,
        lambda: small_resnet(resnet.Bottleneck, (16, 24, 48, 64), cardinality=8, base_width=8),
    ),
    "demo_seresnet": (
        "resnet",
        None,
        lambda: small_resnet(resnet.BasicBlock, (16, 32, 64, 96), block_args={"attn_layer": "se"}),
    ),
    "demo_vit_patch4": ("vision_transformer", (28, 28), lambda: small_vision_transformer(4, 64, 4, 4, 2)),
    "demo_vit_patch7": ("vision_transformer", (28, 28), lambda: small_vision_transformer(7, 64, 3, 4, 3)),
}

# ---------------------------------------------------------------------------------------------------------------------
# The formula: `architectures/tests/formula/mod.rs` computes the same bits


def fnv1a(data):
    """The 64-bit FNV-1a hash of bytes."""
    result = 0xCBF29CE484222325
    for byte in data:
        result = (result ^ byte) * 0x100000001B3 % 2**64
    return result


def bits(name, count):
    """For index 0 … count − 1, 64 bits that look random: the SplitMix64 generator seeded with the name's hash."""
    with numpy.errstate(over="ignore"):
        state = numpy.arange(1, count + 1, dtype=numpy.uint64)
        state *= numpy.uint64(0x9E3779B97F4A7C15)
        state += numpy.uint64(fnv1a(name.encode()))
        state ^= state >> numpy.uint64(30)
        state *= numpy.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> numpy.uint64(27)
        state *= numpy.uint64(0x94D049BB133111EB)
        state ^= state >> numpy.uint64(31)
    return state


def uniform(name, count):
    """Numbers in [−1, 1)."""
    unit = (bits(name, count) >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53
    return 2.0 * unit - 1.0


RESIDUAL_SCALES = ("gamma", "gamma1", "gamma2", "gamma3", "gamma_1", "gamma_2", "ls1", "ls2", "skipinit_gain")
NORM_SCALES = ("alpha", "gain", "scale", "temperature", "v")


def parameter_values(key, shape, gain):
    """A network's numbers under a key: never constant, and such that a deep network neither fades nor explodes."""
    u = uniform(key, math.prod(shape))
    last = key.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1.0 + 0.3 * u
    if last in RESIDUAL_SCALES:
        return 0.5 + 0.2 * u
    if last in NORM_SCALES or (last == "weight" and len(shape) == 1):
        return 1.0 + 0.2 * u
    if last == "weight":
        return u * (gain * math.sqrt(3.0 / math.prod(shape[1:])))
    return 0.1 * u


def pixel_values(shape):
    return 0.5 * (uniform("pixels", math.prod(shape)) + 1.0)


def label_values(count, classes):
    return (bits("labels", count) % numpy.uint64(classes)).astype(numpy.int64)


# ---------------------------------------------------------------------------------------------------------------------
# One network


def build(name, smaller=True):
    """The network, its family, its fixed input size or None, and the size that it is built for if it takes any others.

    That is its own size unless a smaller one will do.
    """
    if name in DEMO:
        family, size, constructor = DEMO[name]
        return constructor(), family, size, None
    module = timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    size = pair(SIZES.get(name, SIZES.get(module)))
    old = timm.__version__ == "0.6.13"
    fixed = False if old or module in FREE else timm.get_pretrained_cfg(name).fixed_input_size
    built = None if fixed or not smaller else pair(BUILT.get(name, BUILT.get(module)))
    made_for = size if fixed else built
    options = OPTIONS.get(name, {}) | ({"img_size": made_for} if made_for else {})
    model = timm.create_model(name, pretrained=False, **options)
    if fixed and not size:
        size = tuple(model.pretrained_cfg["input_size"][1:])
    return model, FAMILY_OF_MODULE.get(module, module), size, built


def pair(pixels):
    """Height and width; None stays."""
    return (pixels, pixels) if isinstance(pixels, int) else pixels


def state(model):
    """Everything of a network that a weight file holds and an image meets."""
    tensors, known = {}, set()
    for key, tensor in model.state_dict().items():
        # What has several names goes by the first of them.
        if not key.endswith("num_batches_tracked") and tensor.data_ptr() not in known:
            known.add(tensor.data_ptr())
            tensors[key] = tensor
    return tensors


def key_lines(model):
    # A number without axes is a vector of one there.
    return sorted(f"{key}:{'x'.join(map(str, tensor.shape)) or 1}" for key, tensor in state(model).items())


def to_tensor(values, shape):
    return torch.from_numpy(values).reshape(tuple(shape))


def digest(tensor, samples=SAMPLES, projections=PROJECTIONS):
    """The norm, some values, and the products with random vectors, by which two tensors can be told apart."""
    values = tensor.detach().numpy().ravel()
    places = bits("samples", samples) % numpy.uint64(values.size)
    return {
        "norm": float(numpy.linalg.norm(values)),
        "samples": [float(values[int(place)]) for place in places],
        "projections": [float(values @ uniform(f"projection{k}", values.size)) for k in range(projections)],
    }


@contextmanager
def shown(name, model, pixels):
    """What timm's `feature_info` names and ALSO besides, by their paths, while the network runs."""
    modules, found, hooks = dict(model.named_modules()), {}, []
    batch = len(pixels)

    def keep(names, _module, _inputs, output):
        if isinstance(output, torch.Tensor):
            whole = output.detach().clone()  # a copy: what follows may write in place
        else:
            # Several results go by their numbers, and all of an image in one row by the name. What has another first axis
            # than the batch (patches as images, say) is in the row alone.
            results = [result.detach().clone() for result in output]
            found.update((f"{names[0]}.{number}", x) for number, x in enumerate(results) if len(x) == batch)
            whole = torch.cat([result.reshape(batch, -1) for result in results], 1)
        found.update((name, whole) for name in names)

    stages = [stage["module"] for stage in getattr(model, "feature_info", None) or []]
    # Where these are not all modules, timm has another way to tell what they are.
    are_modules = all(stage in modules for stage in stages)
    also = [path for path in modules if name in ALSO and re.fullmatch(ALSO[name], path)]
    for path in dict.fromkeys((stages if are_modules else []) + also):
        names = [path]
        if isinstance(modules[path], torch.nn.ModuleList):  # which is nothing that runs: its last is
            names = [f"{path}.{len(modules[path]) - 1}", path]
        hooks.append(modules[names[0]].register_forward_hook(partial(keep, names)))
    yield found
    for hook in hooks:
        hook.remove()
    if not are_modules:
        with torch.no_grad():
            found.update(zip(stages, model.forward_intermediates(pixels, intermediates_only=True), strict=True))


def pooled(model, maps):
    """The features before the classifier; the only network of timm 0.6.13 here has no way of its own to them."""
    return model.global_pool(maps) if timm.__version__ == "0.6.13" else model.forward_head(maps, pre_logits=True)


@contextmanager
def unrounded():
    """Layers that go over to single precision by themselves stay in that of their input (EvoNorm, filter response norm) or
    compute in double precision (XCiT's positions), and so does the slope of PyTorch's hard sigmoid."""
    to_float = torch.Tensor.float
    keep = lambda tensor: tensor if tensor.is_floating_point() else to_float(tensor)
    hard_sigmoid = lambda tensor, inplace=False: torch.nn.functional.relu6(tensor + 3.0) / 6.0
    with (
        mock.patch.object(torch.Tensor, "float", keep),
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch.nn.functional, "hardsigmoid", hard_sigmoid),
    ):
        yield


@contextmanager
def contiguous_gradients(model):
    """Mends batch normalisation of one image: where the gradient comes to it with its axes swapped, PyTorch 2.15 reads it in
    the wrong order (torch.autograd.gradcheck refuses it, too)."""
    def hook(_module, _inputs, output):
        output.register_hook(torch.Tensor.contiguous)

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(hook) for norm in norms]
    yield
    for hook in hooks:
        hook.remove()


def passes(model, pixels):
    """What reaches the classifier, the logits, the loss, and the gradient of the loss with respect to the pixels."""
    with contiguous_gradients(model):
        maps = model.forward_features(pixels)
    features = pooled(model, maps)
    logits = model.forward_head(maps)
    labels = torch.from_numpy(label_values(*logits.shape))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, pixels)
    return features, logits, loss, gradient


def fill(name, model, shape):
    """Gives the network its parameters, and returns their gain."""
    pixels = to_tensor(pixel_values(shape), shape)
    # Two images tell whether features follow them, even where the fixture has one.
    pair = [2, *shape[1:]]
    images = to_tensor(pixel_values(pair), pair)
    for gain in GAINS:
        for key, tensor in state(model).items():
            assert tensor.is_floating_point(), f"{name}: {key} is {tensor.dtype}, for which the formula has no rule"
            tensor.copy_(to_tensor(parameter_values(key, tensor.shape, gain), tensor.shape))
        single, single_images, single_pixels = copy.deepcopy(model).float(), images.float(), pixels.float()
        with unrounded():
            features, rounded = (
                pooled(network, network.forward_features(x)) for network, x in ((model, images), (single, single_images))
            )
            difference = (features[0] - features[1]).norm() / features.norm()
            rounding = (features - rounded).norm() / features.norm()
            if difference < LEAST_DIFFERENCE or rounding > MOST_ROUNDING or features.norm() > LARGEST_NORM:
                continue
            signs = [
                passes(network, x.clone().requires_grad_())[-1].sign()
                for network, x in ((model, pixels), (single, single_pixels))
            ]
        if (signs[0] == signs[1]).double().mean() >= LEAST_SIGNS:
            return gain
    sys.exit(f"{name}: with every one of GAINS, features follow nothing of the image or every rounding; add another")


def reference(name):
    """The family and the line of a network."""
    model, family, fixed_size, built = build(name)
    model = model.double().eval().requires_grad_(False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    height, width = fixed_size or FREE_SIZE
    large = fixed_size and (height * width > LARGE_PIXELS or parameters > LARGE_PARAMETERS)
    shape = [1 if large else 2, 3, height, width]
    gain = fill(name, model, shape)
    pixels = to_tensor(pixel_values(shape), shape).requires_grad_()
    with unrounded(), shown(name, model, pixels) as taps:
        features, logits, loss, gradient = passes(model, pixels)
    line = {
        "name": name,
        "timm": timm.__version__,
        "parameters": parameters,
        "keys": f"{fnv1a(chr(10).join(key_lines(model)).encode()):016x}",
        "gain": gain,
        "input": shape,
        **({"built": built} if built else {}),
        "loss": loss.item(),
        "logits": digest(logits),
        "features": digest(features),
        "gradient": digest(gradient),
        "taps": [{"name": name, "shape": list(x.shape), "digest": digest(x, 2, 1)} for name, x in taps.items()],
    }
    return family, line


# ---------------------------------------------------------------------------------------------------------------------
# Many networks


def read_names(text):
    """Names from `netkin models --json` or from plain text."""
    if text.lstrip().startswith("{"):
        return [model["name"] for model in json.loads(text)["models"]]
    return text.split()


def store(folder, family, line):
    """Puts a line into its family's file, which stays sorted by name."""
    path = folder / f"{family}.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    lines = sorted([old for old in lines if old["name"] != line["name"]] + [line], key=lambda line: line["name"])
    partial_path = path.with_suffix(".partial")
    partial_path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    os.replace(partial_path, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="networks; - reads names or JSON from standard input")
    parser.add_argument("--keys", action="store_true", help="print parameter keys and shapes only")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder of the FAMILY.jsonl files")
    options = parser.parse_args()

    names = [name for word in options.names for name in (read_names(sys.stdin.read()) if word == "-" else [word])]
    known = set(timm.list_models()) | set(DEMO)
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"neither timm nor the table DEMO of this script knows {', '.join(unknown)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if options.keys:
            print("\n".join(key_lines(build(name)[0])))
            continue
        family, line = reference(name)
        store(options.out, family, line)
        print(f"{family}/{name}: input {line['input']}, gain {line['gain']}, loss {line['loss']:.4f}", flush=True)


if __name__ == "__main__":
    main()
