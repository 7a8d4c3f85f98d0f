"""Writes weights/src/catalogue.csv: the published weights of timm and how their images are prepared.

    pip install torch timm
    python scripts/timm_catalogue.py > weights/src/catalogue.csv

One row per (architecture, tag) that timm can download, of the timm files named in FILES. A family that netkin gains is
added there. `place` is empty for the repository timm/NAME.TAG, as nearly always, else another repository, or `file` for
weights that are about in files only: the hub is never asked for them.
"""

import csv
import sys

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


def rows():
    yield from (dict(zip(COLUMNS, row)) for row in OTHERS)
    for file in FILES:
        for name in timm.list_models(module=file):
            weights = _registry._model_default_cfgs[name]
            for tag, config in sorted(weights.cfgs.items()):
                if not config.hf_hub_id:
                    continue
                channels, height, width = config.input_size
                assert channels == 3, (name, tag)
                usual = config.hf_hub_id in ("timm/", f"timm/{name}.{tag}")
                yield {
                    "name": name,
                    "tag": tag,
                    "default": "true" if tag == weights.tags[0] else "false",
                    "num_classes": config.num_classes,
                    "height": height,
                    "width": width,
                    "crop_pct": config.crop_pct,
                    "crop_mode": config.crop_mode,
                    "interpolation": config.interpolation,
                    "mean": " ".join(map(str, config.mean)),
                    "std": " ".join(map(str, config.std)),
                    "place": "" if usual else config.hf_hub_id,
                }


writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
writer.writeheader()
writer.writerows(sorted(rows(), key=lambda row: (row["name"], row["tag"])))
