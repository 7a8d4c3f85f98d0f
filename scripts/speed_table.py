#!/usr/bin/env python3
"""netkin and PyTorch side by side: milliseconds per step and peak memory, as a Markdown table.

    pip install torch timm
    cargo build --release
    python scripts/speed_table.py --out docs/speed.md                  # the CPU
    python scripts/speed_table.py --vectors avx2 --only 'input-grad/*' --out docs/speed-avx2.md
    python scripts/speed_table.py --paper69 --rounds 1 --repetitions 2 --keep speed.json --out docs/speed-paper69.md
    python scripts/speed_table.py --device cuda --out docs/gpu.md      # a GPU (netkin built with --features cuda)

Rows, all of batch 8: fourteen networks of ImageNet, one step of an attack (logits and the gradient with respect to the
pixels, 224 px but for SIZES); and training (logits and all gradients in training mode) of the ten small networks that netkin carries
(28 px) and of deit_tiny_patch16_224. Weights and images are random. `--paper69` measures a step of an attack of each of the
SAT paper's networks in their place, at its weights' own size. gluon_xception65 wants timm 0.6.13: with another, PyTorch's
side of it fails, and a second call with that timm and the same `--keep FILE.json` completes the row.

Each measurement is a process of its own that warms up and takes the median of some repetitions; PyTorch and netkin take
turns, for some rounds, and the table holds the medians of the rounds. The peak memory is the most that such a process
held (on a GPU: that its framework took from the device). Both sides get the same number of threads.

On the CPU, PyTorch runs eagerly with NCHW and with channels_last tensors, and compiled by torch.compile (channels_last; it wants
a C++ compiler and about a minute for a network); the fastest of the three counts, or of those that `--ways` names. glibc's
allocator is told (by environment variables) to keep memory between steps and to ask for large pages, as netkin tells its own,
without which PyTorch's steps take up to twice as long on networks of large feature maps. `--vectors avx2` holds both sides to AVX2.

On a GPU, PyTorch runs eagerly (channels_last, TF32), under autocast to bf16, and compiled by torch.compile (channels_last,
TF32); netkin runs in f32 (products of which its kernels compute as TF32), f16 and bf16.
"""

import argparse
import fnmatch
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

# ---------------------------------------------------------------------------------------------------------------------
# What is measured

ATTACKED = [
    "resnet50", "resnext50_32x4d", "efficientnet_b2", "tf_efficientnet_lite0", "mobilenetv2_100",
    "vit_small_patch16_224", "resmlp_24_224", "convnext_tiny", "regnety_032", "mixnet_xl", "nfnet_l0",
    "swin_tiny_patch4_window7_224", "xcit_tiny_12_p8_224", "halonet50ts",
]  # fmt: skip
# Where whole blocks of attention ask for another size than 224.
SIZES = {"halonet50ts": 256}
BATCH = 8

DEMO = [
    "demo_convnext", "demo_efficientnet", "demo_gmlp", "demo_mixer", "demo_mobilenetv2", "demo_resnet", "demo_resnext",
    "demo_seresnet", "demo_vit_patch4", "demo_vit_patch7",
]  # fmt: skip

# (network, pass, batch, pixels)
ROWS = (
    [(name, "input-grad", BATCH, SIZES.get(name, 224)) for name in ATTACKED]
    + [(name, "train", BATCH, 28) for name in DEMO]
    + [("deit_tiny_patch16_224", "train", BATCH, 224)]
)

# How PyTorch runs, by device; on the CPU the fastest one counts.
PYTORCH = {"cpu": ["NCHW", "channels_last", "compile"], "cuda": ["eager TF32", "autocast bf16", "compile TF32"]}
# What netkin computes in, by device; the first is set beside PyTorch's fastest one on the CPU.
NETKIN = {"cpu": ["f32"], "cuda": ["f32", "f16", "bf16"]}
# On a GPU: netkin's precision and the way that PyTorch runs, of which the ratio is taken.
RIVALS = {"f32": "eager TF32", "f16": "autocast bf16", "bf16": "autocast bf16"}

WARM_UP = {"cpu": 1, "cuda": 5}

# glibc keeps what is freed instead of giving it back to the system page by page, and asks for pages of 2 MiB, as netkin does
# by itself; other systems ignore these.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

# What holds both sides to the vectors of a lesser processor: netkin; PyTorch's own kernels, oneDNN and MKL.
VECTORS = {
    "widest": {},
    "avx2": {
        "NETKIN_SIMD": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}

# ---------------------------------------------------------------------------------------------------------------------
# One measurement of PyTorch, in a process of its own


def build(name):
    """A network with random weights and its number of classes."""
    if name.startswith("demo_"):
        # Built from timm's classes for the reference values too.
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import timm_reference

        return timm_reference.DEMO[name][2](), 10
    import timm

    return timm.create_model(name, pretrained=False), 1000


def peak_bytes(device):
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def measure_pytorch(name, step, batch, size, way, device, threads, repetitions):
    """Prints the median in milliseconds and the peak memory as JSON."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    import timm  # noqa: F401, so that what the libraries alone take is known

    libraries = peak_bytes("cpu")
    model, classes = build(name)
    model = model.to(device)
    layout = torch.contiguous_format if way == "NCHW" else torch.channels_last
    model = model.to(memory_format=layout)
    images = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    labels = torch.arange(batch, device=device) % classes
    train = step == "train"
    model.train(train).requires_grad_(train)
    images.requires_grad_(not train)
    forward = torch.compile(model) if way.startswith("compile") else model

    def once():
        model.zero_grad(set_to_none=True)
        images.grad = None
        with torch.autocast(device, torch.bfloat16, enabled=way.startswith("autocast")):
            logits = forward(images)
        torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum").backward()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP[device]):
        once()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        once()
        times.append((time.perf_counter() - start) * 1e3)
    result = {"median_ms": statistics.median(times), "peak_bytes": peak_bytes(device), "libraries_bytes": libraries}
    print(json.dumps(result))


# ---------------------------------------------------------------------------------------------------------------------
# Measurements in turn


def run_pytorch(options, row, way):
    worker = ["--worker", json.dumps([*row, way, options.device, options.threads, options.repetitions])]
    environment = {**KEEP_MEMORY, **VECTORS[options.vectors]} if options.device == "cpu" else {}
    return json.loads(output_of([sys.executable, __file__, *worker], environment))


def run_netkin(options, row, precision):
    name, step, batch, size = row
    device = {"cpu": "flex", "cuda": "cuda:0"}[options.device]
    command = [
        options.netkin, "bench", name, "--pass", step, "--batch", str(batch), "--size", str(size), "--device", device,
        "--precision", precision, "--repetitions", str(options.repetitions), "--threads", str(options.threads), "--json",
        "--quiet",
    ]  # fmt: skip
    return json.loads(output_of(command, VECTORS[options.vectors]))["results"][0]


def output_of(command, environment={}):
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if result.returncode != 0:
        words = result.stderr.strip().splitlines() or ["no words"]
        raise RuntimeError(f"{' '.join(command[:3])} … failed: {words[-1]}")
    return result.stdout


def sides_of(options):
    sides = [(run_pytorch, "PyTorch", way) for way in PYTORCH[options.device] if way in (options.ways or [way])]
    return sides + [(run_netkin, "netkin", precision) for precision in NETKIN[options.device]]


class Kept:
    """Measurements in a file, so that a table that was interrupted goes on."""

    def __init__(self, path):
        self.path = path
        self.rows = json.loads(path.read_text()) if path and path.exists() else {}

    def get(self, row):
        kept = self.rows.get(" ".join(map(str, row)), {})
        return {tuple(side.split(" ", 1)): measured for side, measured in kept.items()}

    def put(self, row, results):
        self.rows[" ".join(map(str, row))] = {" ".join(side): measured for side, measured in results.items()}
        if self.path:
            self.path.write_text(json.dumps(self.rows, indent=1))


def paper69(options):
    """The rows of the paper's networks."""
    listed = json.loads(output_of([options.netkin, "models", "@paper69", "--json"]))["models"]
    return [(model["name"], "input-grad", BATCH, model["input_size"][1]) for model in listed]


def measure_row(options, row, known):
    """{(side, way): {"ms": …, "bytes": …}} of what could be measured and is not known."""
    sides = [side for side in sides_of(options) if side[1:] not in known]
    rounds = {}
    for _ in range(options.rounds):
        for run, side, way in sides:
            try:
                measured = run(options, row, way)
            except RuntimeError as error:
                print(f"{row[0]}: {error}", file=sys.stderr, flush=True)
                continue
            rounds.setdefault((side, way), []).append(measured)
    return known | {
        key: {
            "ms": statistics.median(measured["median_ms"] for measured in all_measured),
            "bytes": max((measured["peak_bytes"] or 0) for measured in all_measured),
            "libraries": max(measured.get("libraries_bytes") or 0 for measured in all_measured),
        }
        for key, all_measured in rounds.items()
    }


# ---------------------------------------------------------------------------------------------------------------------
# The tables


def mebibytes(measured):
    return f"{measured['bytes'] / 2**20:.0f}" if measured and measured["bytes"] else "–"


def milliseconds(measured):
    return f"{measured['ms']:.{1 if measured['ms'] >= 10 else 2}f}" if measured else "failed"


def ratio(netkin, pytorch):
    return f"{netkin['ms'] / pytorch['ms']:.2f}" if netkin and pytorch else "–"


def fastest(results, ways):
    """The fastest of PyTorch's ways, and what was measured of it."""
    measured = [(results[("PyTorch", way)]["ms"], way) for way in ways if ("PyTorch", way) in results]
    if not measured:
        return "–", None
    way = min(measured)[1]
    return way, results[("PyTorch", way)]


def cpu_table(results):
    yield "| model | pass | batch | px | PyTorch ms | way | netkin ms | netkin / PyTorch | PyTorch peak MiB | netkin peak MiB |"
    yield "|---|---|---:|---:|---:|---|---:|---:|---:|---:|"
    for (name, step, batch, size), measured in results.items():
        way, pytorch = fastest(measured, PYTORCH["cpu"])
        netkin = measured.get(("netkin", "f32"))
        yield (
            f"| {name} | {step} | {batch} | {size} | {milliseconds(pytorch)} | {way} | {milliseconds(netkin)} "
            f"| {ratio(netkin, pytorch)} | {mebibytes(pytorch)} | {mebibytes(netkin)} |"
        )
    for step in dict.fromkeys(row[1] for row in results):
        pairs = []
        for row, measured in results.items():
            pytorch, netkin = fastest(measured, PYTORCH["cpu"])[1], measured.get(("netkin", "f32"))
            if row[1] == step and pytorch and netkin:
                pairs.append((netkin, pytorch))
        if pairs:
            mean = geometric_mean(netkin["ms"] / pytorch["ms"] for netkin, pytorch in pairs)
            held = geometric_mean(netkin["bytes"] / pytorch["bytes"] for netkin, pytorch in pairs)
            yield f"| **geometric mean of {len(pairs)}** | {step} | | | | | | **{mean:.2f}** | | memory: {held:.2f} |"


def gpu_table(results):
    ways, precisions = PYTORCH["cuda"], NETKIN["cuda"]
    head = ["model", "pass", "batch", "px"]
    head += [f"PyTorch {way}, ms" for way in ways] + [f"netkin {precision}, ms" for precision in precisions]
    head += [f"{precision} / {RIVALS[precision]}" for precision in precisions]
    head += ["f32 / compile TF32", "PyTorch peak MiB", "netkin peak MiB"]
    yield "| " + " | ".join(head) + " |"
    yield "|---|---" + "|---:" * (len(head) - 2) + "|"
    ratios = {}
    for (name, step, batch, size), measured in results.items():
        pytorch = [measured.get(("PyTorch", way)) for way in ways]
        netkin = {precision: measured.get(("netkin", precision)) for precision in precisions}
        pairs = [(netkin[precision], measured.get(("PyTorch", RIVALS[precision]))) for precision in precisions]
        pairs.append((netkin["f32"], measured.get(("PyTorch", "compile TF32"))))
        for column, (ours, theirs) in enumerate(pairs):
            if ours and theirs:
                ratios.setdefault((step, column), []).append(ours["ms"] / theirs["ms"])
        cells = [name, step, str(batch), str(size)]
        cells += [milliseconds(one) for one in [*pytorch, *netkin.values()]] + [ratio(*pair) for pair in pairs]
        cells += [mebibytes(pytorch[0]), mebibytes(netkin["f32"])]
        yield "| " + " | ".join(cells) + " |"
    for step in dict.fromkeys(row[1] for row in results):
        means = [ratios.get((step, column), []) for column in range(len(precisions) + 1)]
        cells = ["**geometric mean**", step, "", ""] + [""] * (len(ways) + len(precisions))
        cells += [f"**{geometric_mean(values):.2f}**" if values else "–" for values in means] + ["", ""]
        yield "| " + " | ".join(cells) + " |"


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def machine(options):
    """What ran: a sentence for the head of the table."""
    import timm
    import torch

    processor, vectors = platform.processor() or platform.machine(), options.vectors
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text()
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
        processor = told.get("model name", processor)
        if {"cpu family", "model"} <= told.keys():
            # Names such as "AMD EPYC" are those of several designs.
            processor += f" (family {told['cpu family']}, model {told['model']})"
        if vectors == "widest":
            vectors = next((name for name in ("avx512f", "avx2") if f" {name} " in text), vectors)
    vectors = {"avx512f": "AVX-512", "avx2": "AVX2"}.get(vectors, f"{vectors} vectors")
    if options.device == "cuda":
        processor = f"{torch.cuda.get_device_name(0)}, {processor}"
    netkin = output_of([options.netkin, "--version"]).strip()
    return (
        f"{processor}, {vectors}; {os.cpu_count()} cores, {options.threads} threads; {platform.system()} {platform.release()}; "
        f"{netkin}, PyTorch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}; "
        f"{time.strftime('%Y-%m-%d')}; medians of {options.rounds} rounds of {options.repetitions} repetitions."
    )


def document(options, results):
    command = shlex.join(["python", "scripts/speed_table.py", *sys.argv[1:]])
    ways = [way for _, side, way in sides_of(options) if side == "PyTorch"]
    note = {
        "cpu": f"PyTorch runs in the fastest of its ways ({', '.join(ways)}), and keeps freed memory. Below 1, netkin is faster.",
        "cuda": "PyTorch's peak is that of eager TF32, netkin's that of f32. Below 1, netkin is faster.",
    }
    if options.device == "cpu":
        libraries = [one["libraries"] for measured in results.values() for one in measured.values() if one["libraries"]]
        if libraries:
            note["cpu"] += f" Of PyTorch's peak, {statistics.median(libraries) / 2**20:.0f} MiB are its libraries."
    table = {"cpu": cpu_table, "cuda": gpu_table}[options.device]
    return "\n".join(
        [
            f"# netkin beside PyTorch on the {'CPU' if options.device == 'cpu' else 'GPU'}",
            "",
            f"Printed by `{command}`.",
            "",
            machine(options),
            "",
            note[options.device],
            "`input-grad`: logits and the gradient with respect to the pixels. `train`: logits and all gradients.",
            "",
            *table(results),
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="networks whose name matches, or PASS/NAME")
    parser.add_argument("--paper69", action="store_true", help="the SAT paper's networks")
    parser.add_argument("--keep", type=Path, metavar="FILE.json", help="measurements are kept here and not made again")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both sides [3]")
    parser.add_argument("--repetitions", type=int, default=5, help="timed steps in each turn [5]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both sides [all cores]")
    parser.add_argument("--vectors", choices=VECTORS, default="widest", help="of both sides, on the CPU [widest]")
    parser.add_argument("--ways", nargs="+", choices=sorted({way for ways in PYTORCH.values() for way in ways}), help="of PyTorch [all]")
    parser.add_argument("--netkin", default="target/release/netkin", help="the program [target/release/netkin]")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table here, too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return measure_pytorch(*json.loads(options.worker))

    if not Path(options.netkin).exists():
        sys.exit(f"{options.netkin} is not there; build it with `cargo build --release`, or give --netkin")
    all_rows = paper69(options) if options.paper69 else ROWS
    rows = [
        row
        for row in all_rows
        if fnmatch.fnmatch(row[0], options.only) or fnmatch.fnmatch(f"{row[1]}/{row[0]}", options.only)
    ]
    if not rows:
        sys.exit(f"no network matches {options.only!r}; there are {', '.join(row[0] for row in all_rows)}")
    results, kept = {}, Kept(options.keep)
    for row in rows:
        results[row] = measure_row(options, row, kept.get(row))
        kept.put(row, results[row])
        told = {f"{side} {way}": round(measured["ms"], 2) for (side, way), measured in results[row].items()}
        print(f"{row[1]} {row[0]}: {told}", file=sys.stderr, flush=True)
    text = document(options, results)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    sides = sides_of(options)
    return 0 if all(len(measured) == len(sides) for measured in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
