"""Writes weights/src/catalogue.csv: the published weights of timm and how images are prepared for them.

    pip install torch timm
    python scripts/timm_catalogue.py > weights/src/catalogue.csv
    python scripts/timm_catalogue.py --check                      # exit code 1 if the table is not what would be written

One row per (architecture, tag) whose weights timm can download, of the timm files named in FILES, and for an architecture
without any the row of how timm prepares images for it, with an empty tag. A family that netkin gains is added there. `place`
is empty for the repository timm/NAME.TAG, as nearly always, else another repository, or `file` for weights that are about in
files only (the hub is never asked for them), or `none`.

The default rows are compared with timm's own answer for a name without a tag, `timm.get_pretrained_cfg`.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

import timm
from timm.models import _registry

FILES = [
    "byoanet", "byobnet", "cait", "coat", "convit", "convmixer", "convnext", "crossvit", "cspnet", "deit", "densenet", "dla",
    "dpn", "efficientnet", "ghostnet", "hardcorenas", "hrnet", "inception_resnet_v2", "inception_v3",
    "inception_v4", "levit", "metaformer", "mlp_mixer", "mobilenetv3", "nest", "nfnet", "pit", "regnet", "repvit",
    "resnest", "resnet", "resnetv2", "rexnet", "senet", "starnet", "swin_transformer", "swin_transformer_v2", "tnt",
    "twins", "vgg", "visformer", "vision_transformer", "vision_transformer_hybrid", "vovnet", "xception",
    "xception_aligned", "xcit",
]
TABLE = Path(__file__).resolve().parent.parent / "weights/src/catalogue.csv"
COLUMNS = [
    "name", "tag", "default", "num_classes", "height", "width",
    "crop_pct", "crop_mode", "interpolation", "mean", "std", "place",
]

# Weights that are about under timm's keys but not in timm: torchvision's MobileNetV2 (V1), made with bilinear resizing; and
# what timm has dropped.
OTHERS = [
    ("mobilenetv2_100", "tv_in1k", "false", 1000, 224, 224, 0.875, "center", "bilinear",
     "0.485 0.456 0.406", "0.229 0.224 0.225", "file"),
    # timm's until 0.6.13, from the releases of its repository.
    ("gluon_xception65", "gluon_in1k", "true", 1000, 299, 299, 0.903, "center", "bicubic",
     "0.485 0.456 0.406", "0.229 0.224 0.225", "file"),
]


def prepared(config):
    """How images are prepared, in the columns' order."""
    channels, height, width = config.input_size
    assert channels == 3, config
    return {
        "num_classes": config.num_classes,
        "height": height,
        "width": width,
        "crop_pct": config.crop_pct,
        "crop_mode": config.crop_mode,
        "interpolation": config.interpolation,
        "mean": " ".join(map(str, config.mean)),
        "std": " ".join(map(str, config.std)),
    }


def place(name, tag, config):
    if not config.hf_hub_id:
        return "file"
    return "" if config.hf_hub_id in ("timm/", f"timm/{name}.{tag}") else config.hf_hub_id


def rows():
    yield from (dict(zip(COLUMNS, row)) for row in OTHERS)
    for file in FILES:
        for name in timm.list_models(module=file):
            weights = _registry._model_default_cfgs[name]
            default = weights.tags[0]
            there = {tag: config for tag, config in sorted(weights.cfgs.items()) if config.hf_hub_id or config.url}
            for tag, config in there.items():
                first = {"name": name, "tag": tag, "default": "true" if tag == default else "false"}
                yield first | prepared(config) | {"place": place(name, tag, config)}
            if not there:
                yield {"name": name, "tag": "", "default": "true"} | prepared(weights.cfgs[default]) | {"place": "none"}


def table():
    """The text of the table, whose default rows are what timm says of the names alone."""
    sorted_rows = sorted(rows(), key=lambda row: (row["name"], row["tag"]))
    known = set(timm.list_models())
    for row in sorted_rows:
        if row["default"] == "true" and row["name"] in known:
            said = prepared(timm.get_pretrained_cfg(row["name"]))
            different = {column: (row[column], value) for column, value in said.items() if row[column] != value}
            assert not different, f"{row['name']}: {different}"
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted_rows)
    return text.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with weights/src/catalogue.csv instead of printing")
    if not parser.parse_args().check:
        sys.stdout.write(table())
        return
    wanted, found = (set(text.splitlines()) for text in (table(), TABLE.read_text()))
    for sign, lines in (("+", wanted - found), ("-", found - wanted)):
        for line in sorted(lines):
            print(sign, line)
    print(f"{len(wanted ^ found)} rows differ from timm {timm.__version__}")
    sys.exit(int(wanted != found))


if __name__ == "__main__":
    main()
