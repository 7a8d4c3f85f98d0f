#!/usr/bin/env python3
"""Makes the reference values of tests/images.rs with Pillow, torchvision and timm.

    pip install torch torchvision timm pillow numpy
    python scripts/pillow_reference.py [--photos DIR]

Writes tests/fixtures/images/:

- resize.csv, resize_f32.csv, transform.csv: CRC-32 of what Pillow, and timm's evaluation transform, make of the
  image that `formula_image` computes (tests/images.rs computes the same one);
- formats/NAME.EXT and formats/NAME.rgb: small files of each format, and their pixels as Pillow decodes them;
- refused/: files that Pillow reads and netkin refuses, since it would not read them in the same way;
- photos.csv, with --photos: CRC-32 of the resized PNG images of that folder (only the sums are stored, not the images).
"""

import argparse
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "images"
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# (width, height) before and after
RESIZES = [
    ((299, 299), (224, 224)),
    ((500, 375), (341, 256)),
    ((375, 500), (256, 341)),
    ((64, 48), (224, 224)),
    ((224, 224), (256, 256)),
    ((97, 61), (61, 97)),
    ((300, 200), (300, 100)),
    ((300, 200), (150, 200)),
    ((300, 200), (300, 200)),
    ((1000, 37), (7, 5)),
    ((2, 3), (9, 11)),
    ((1, 1), (5, 4)),
    ((5, 400), (1, 1)),
    ((1234, 17), (1233, 18)),
    # Tall: Pillow 13 makes the vertical pass first where the height loses more than twice what the width loses.
    ((37, 1000), (5, 7)),
    ((50, 400), (100, 20)),
    ((200, 400), (100, 199)),
    ((200, 400), (100, 200)),
    ((300, 200), (301, 199)),
    ((60, 90), (65, 91)),
]

# (width, height), (input height, input width), crop_pct, crop mode
TRANSFORMS = [
    ((500, 375), (224, 224), 0.875, "center"),
    ((375, 500), (224, 224), 0.875, "center"),
    ((299, 299), (224, 224), 0.875, "center"),
    ((299, 299), (224, 224), 0.9, "center"),
    ((333, 251), (240, 240), 0.95, "center"),
    ((333, 251), (288, 288), 1.0, "center"),
    ((333, 251), (299, 299), 0.897, "center"),
    ((320, 320), (320, 320), 1.0, "center"),
    ((50, 333), (160, 160), 0.94, "center"),
    ((123, 77), (64, 64), 1.25, "center"),
    ((150, 400), (128, 128), 0.875, "center"),
    ((400, 150), (128, 128), 0.875, "center"),
    ((500, 375), (192, 256), 0.875, "center"),
    ((301, 300), (100, 200), 1.0, "center"),
    ((255, 101), (129, 63), 0.93, "center"),
    ((500, 375), (224, 224), 0.9, "squash"),
    ((301, 300), (100, 200), 1.0, "squash"),
    ((300, 500), (224, 224), 0.95, "squash"),
    ((500, 375), (224, 224), 1.0, "border"),
    ((151, 300), (224, 224), 0.875, "border"),
    ((301, 100), (120, 201), 0.95, "border"),
]
# The fill of the border mode is this mean times 255, rounded.
MEAN = (0.5, 0.25, 0.75)


def formula_image(width, height):
    x, y, channel = np.meshgrid(np.arange(width), np.arange(height), np.arange(3), indexing="xy")
    value = x * 131 + y * 241 + channel * 59 + (x * y % 251) * ((x + 3 * y) % 17)
    return Image.fromarray((value % 256).astype(np.uint8), "RGB")


def crc(data):
    return f"{zlib.crc32(data):08x}"


def write_csv(name, header, rows):
    lines = [",".join(header)] + [",".join(str(value) for value in row) for row in rows]
    (FIXTURES / name).write_text("\n".join(lines) + "\n")
    print(name, len(rows))


def resize_rows():
    for before, after in RESIZES:
        image = formula_image(*before)
        for name, resample in FILTERS.items():
            yield *before, *after, name, crc(image.resize(after, resample).tobytes())


def resize_f32_rows():
    for before, after in RESIZES:
        planes = np.asarray(formula_image(*before)).astype(np.float32).transpose(2, 0, 1) / np.float32(255)
        for name, resample in FILTERS.items():
            resized = [np.asarray(Image.fromarray(plane, "F").resize(after, resample)) for plane in planes]
            yield *before, *after, name, crc(np.stack(resized).astype("<f4").tobytes())


def transform_rows():
    for size, input_size, crop_pct, mode in TRANSFORMS:
        image = formula_image(*size)
        for name in FILTERS:
            transform = transforms_imagenet_eval(
                img_size=input_size, crop_pct=crop_pct, crop_mode=mode, interpolation=name, mean=MEAN, normalize=False
            )
            result = transform(image)
            assert result.shape == (3, *input_size)
            yield *size, *input_size, crop_pct, mode, name, crc(result.permute(1, 2, 0).contiguous().numpy().tobytes())


def photo_rows(folder):
    for path in sorted(folder.glob("*.png")):
        image = Image.open(path).convert("RGB")
        sums = [crc(image.tobytes())]
        for resample in FILTERS.values():
            sums += [crc(image.resize(size, resample).tobytes()) for size in [(224, 224), (331, 160)]]
        yield path.name, *sums


def picture(width=41, height=30):
    """Smooth shades with some edges, as in a photograph."""
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    red = 0.5 + 0.4 * np.sin(7 * x + 3 * y * y)
    green = 0.5 + 0.4 * np.cos(5 * y - 4 * x * y) * np.where((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.08, 1.0, 0.5)
    blue = np.where(y > 0.3 + 0.3 * x, 0.8 * x, 1 - y)
    return np.clip(np.stack([red, green, blue], 2) * 255, 0, 255).astype(np.uint8)


def png_file(samples, color_type):
    """A 16-bit PNG, which Pillow cannot write in colour; `samples` is [height, width, channels]."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def gif_on_screen(image, screen, place):
    """A GIF whose only picture, `image`, lies at `place` on a larger screen."""
    buffer = io.BytesIO()
    image.save(buffer, "GIF")
    data = bytearray(buffer.getvalue())
    data[6:10] = struct.pack("<HH", *screen)
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    while data[start] == 0x21:  # extensions
        start += 2
        while data[start]:
            start += data[start] + 1
        start += 1
    assert data[start] == 0x2C
    data[start + 1 : start + 5] = struct.pack("<HH", *place)
    return bytes(data)


def write_formats():
    folder = FIXTURES / "formats"
    folder.mkdir(parents=True, exist_ok=True)
    rgb = Image.fromarray(picture(), "RGB")
    alpha = Image.fromarray(np.roll(picture()[:, :, 0], 7, 1), "L")
    rgba = Image.merge("RGBA", (*rgb.split(), alpha))
    gray = rgb.convert("L")
    palette = rgb.quantize(40)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # Orientation: turned by 90 degrees

    def save(name, image, **options):
        image.save(folder / name, **options)

    save("rgb.png", rgb)
    save("rgba.png", rgba)
    save("gray.png", gray)
    save("gray_alpha.png", Image.merge("LA", (gray, alpha)))
    save("bilevel.png", rgb.convert("1"))
    save("palette.png", palette)
    save("palette_of_10.png", rgb.quantize(10))
    save("palette_transparent.png", palette, transparency=3)
    save("gray_transparent.png", gray, transparency=120)
    wide = picture().astype(np.uint16) * 131 + 77
    save("gray16.png", Image.fromarray(wide[:, :, 0] % 400))
    (folder / "gray_alpha16.png").write_bytes(png_file(wide[:, :, :2], 4))
    (folder / "rgb16.png").write_bytes(png_file(wide, 2))
    (folder / "rgba16.png").write_bytes(png_file(np.concatenate([wide, wide[:, :, :1]], 2), 6))
    save("420.jpg", rgb, quality=90, subsampling=2)
    save("422.jpg", rgb, quality=90, subsampling=1)
    save("444.jpg", rgb, quality=90, subsampling=0)
    save("gray.jpg", gray, quality=90)
    save("progressive.jpg", rgb, quality=85, progressive=True)
    save("cmyk.jpg", rgb.convert("CMYK"), quality=95)
    save("rotated.jpg", rgb, quality=90, exif=rotated)
    save("restart.jpg", rgb, quality=90, restart_marker_blocks=2)
    save("lossy.webp", rgb, quality=80)
    save("lossless.webp", rgb, lossless=True)
    save("lossy_alpha.webp", rgba, quality=80)
    save("lossless_alpha.webp", rgba, lossless=True, exact=True)
    save("palette.gif", palette)
    save("gray.gif", gray)
    save("transparent.gif", palette, transparency=3)
    save("animated.gif", palette, save_all=True, append_images=[palette.rotate(180)], duration=100)
    # The first picture covers a part of the screen only.
    small = rgb.crop((0, 0, 20, 11)).quantize(12)
    refused = FIXTURES / "refused"
    refused.mkdir(exist_ok=True)
    (refused / "part_of_screen.gif").write_bytes(gif_on_screen(small, (41, 30), (7, 5)))
    save("rgb.bmp", rgb)
    save("rgba.bmp", rgba)
    save("gray.bmp", gray)
    save("palette.bmp", palette)
    save("bilevel.bmp", rgb.convert("1"))
    save("rgb.tiff", rgb)
    save("rgba.tiff", rgba)
    save("gray.tiff", gray)
    save("gray16.tiff", Image.fromarray(wide[:, :, 0] % 400))
    palette.save(refused / "palette.tiff")
    save("cmyk.tiff", rgb.convert("CMYK"))
    save("bilevel.tiff", rgb.convert("1"))
    for compression in ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]:
        save(f"{compression}.tiff", rgb, compression=compression)
    save("group4.tiff", rgb.convert("1"), compression="group4")
    save("rgb.ppm", rgb)
    save("gray.pgm", gray)
    save("gray16.pgm", Image.fromarray(wide[:, :, 0] % 400))
    save("bilevel.pbm", rgb.convert("1"))
    plain = " ".join(str(value) for value in picture().ravel() // 17)
    (folder / "plain.ppm").write_text(f"P3\n# fifteen levels\n41 30\n15\n{plain}\n")
    for path in sorted(folder.iterdir()):
        if path.suffix != ".rgb":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decoded = Image.open(path).convert("RGB")
            path.with_name(path.name + ".rgb").write_bytes(decoded.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of PNG images to sum up in photos.csv")
    arguments = parser.parse_args()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    resize_columns = ["width", "height", "to_width", "to_height", "filter", "crc32"]
    write_csv("resize.csv", resize_columns, list(resize_rows()))
    write_csv("resize_f32.csv", resize_columns, list(resize_f32_rows()))
    transform_columns = ["width", "height", "input_height", "input_width", "crop_pct", "crop_mode", "filter", "crc32"]
    write_csv("transform.csv", transform_columns, list(transform_rows()))
    write_formats()
    if arguments.photos:
        columns = ["file", "decoded", "bilinear_224x224", "bilinear_331x160", "bicubic_224x224", "bicubic_331x160"]
        write_csv("photos.csv", columns, list(photo_rows(arguments.photos)))


if __name__ == "__main__":
    main()
