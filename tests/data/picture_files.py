"""Pictures, and folders of them, as the tests of data write them."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(kind="PNG", mode="L", size=(8, 8), seed=0, alpha=255, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels).convert(mode)
    if alpha < 255:
        picture.putalpha(alpha)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(order: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=f"{order}u2").reshape(8, 8) * 900).save(buffer, "TIFF")
    return buffer.getvalue()


PNG = encoded()
TORN = encoded("JPEG", size=(64, 64))[:-400]


def lay(folder: Path, content: dict) -> Path:
    """Write a folder: "cat/": 6 are so many pictures, bytes a file, "-> there" a link, None a FIFO."""
    for name, value in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, int):
            path.mkdir(parents=True, exist_ok=True)
            for i in range(value):
                (path / f"{i}.png").write_bytes(PNG)
        elif isinstance(value, bytes):
            path.write_bytes(value)
        elif value is None:
            os.mkfifo(path)
        else:
            path.symlink_to(value.removeprefix("-> "))
    return folder


def squares(folder: Path, sizes=((8, 6),), mode="L", splits=("",), classes=("cat", "dog")) -> Path:
    """Write six pictures of noise for each class and split."""
    for split in splits:
        for number, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                content = encoded(mode=mode, size=sizes[i % len(sizes)], seed=10 * number + i)
                (folder / split / name / f"{i}.png").write_bytes(content)
    return folder


TWO = {"cat/": 6, "dog/": 6}
SPLITS = {f"{split}/{name}": n for split, n in (("train", 10), ("test", 4)) for name in ("cat/", "dog/")}
