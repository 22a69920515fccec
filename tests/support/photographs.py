"""A user's folder of images, as inspection meets it."""

from __future__ import annotations

from pathlib import Path

from sage_jax.config import DataConfig
from sage_jax.data.records import AnnotatedImage
from sage_jax.data.sources.generated import draw

SCRIPT = "<script>alert(1)<&.png"


def drawn() -> list[AnnotatedImage]:
    """Six small images of the generator, good and defective."""
    data = DataConfig(num_train=6, num_test=1, image_px=40)
    return list(draw(data, "train", 5))


def write_photographs(folder: Path) -> Path:
    """Images in subfolders, one broken, one with a name that is code; and references beside them."""
    images = drawn()
    names = ["images/gear/a.png", "images/b.PNG", f"images/{SCRIPT}", "references/a.png", "references/zzz.png"]
    for name, image in zip(names, images, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image.test_image)
    (folder / "images" / "broken.jpg").write_bytes(images[0].test_image[:90])
    (folder / "images" / "._b.png").write_bytes(b"left by a Mac")
    (folder / "images" / "notes.txt").write_text("# first\nb.PNG\n\nnot_there.png\n", encoding="utf-8")
    (folder / "empty").mkdir()
    return folder
