"""Tiny question sets in the exact formats of MMAD and MANTA, with generated images."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from sage_jax.data.images import encode_png

MMAD_TYPES: Final = (
    "Anomaly Detection",
    "Defect Classification",
    "Defect Localization",
    "Defect Description",
    "Defect Analysis",
    "Object Classification",
    "Object Structure",
    "Object Details",
)
_OBJECTS: Final = {"DS-MVTec": "bottle", "MVTec-LOCO": "pushpins", "VisA": "candle", "GoodsAD": "cigarette_box"}
_TEXTS: Final = ("a scratch", "no change at all", "a dent near the top", "a stain")


def picture(path: Path, number: int) -> None:
    """Writes an image of its own colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    path.write_bytes(encode_png(rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)))


def question(kind: str, number: int) -> dict[str, Any]:
    """A question of a type, its right letter by number."""
    if kind == "Anomaly Detection":
        return {
            "Question": "Is there any defect in the object?",
            "Answer": "AB"[number % 2],
            "Options": {"A": "Yes.", "B": "No."},
            "type": kind,
            "annotation": True,
        }
    options = dict(zip("ABCD", _TEXTS[: 2 + number % 3], strict=False))
    return {
        "Question": f"What of this is right ({kind})?",
        "Answer": list(options)[number % len(options)],
        "Options": options,
        "type": kind,
        "annotation": True,
    }


def write_mmad(folder: Path, copies: int = 1) -> Path:
    """mmad.json of images of each data set, good and not, with templates and domain_knowledge.json; its path."""
    content: dict[str, Any] = {}
    number = 0
    for dataset, name in _OBJECTS.items():
        template = f"{dataset}/{name}/train/good/000.png"
        picture(folder / template, 100 + len(content))
        for label, copy in itertools.product(("good", "broken"), range(copies)):
            key = f"{dataset}/{name}/test/{label}/{copy:03}.png"
            picture(folder / key, len(content))
            kinds = MMAD_TYPES[:1] + MMAD_TYPES[5:] if label == "good" else MMAD_TYPES
            asked = [question(kind, number + place) for place, kind in enumerate(kinds)]
            asked[0]["Answer"] = "B" if label == "good" else "A"
            number += 3
            content[key] = {
                "image_path": key,
                "mask_path": None if label == "good" else "ground_truth/broken/000_mask.png",
                "similar_templates": [template],
                "random_templates": [template],
                "conversation": asked,
            }
    known = {
        dataset.replace("DS-MVTec", "MVTec"): {
            name: {"good": " <Normal>\n Description: It is whole. Nothing else.", "broken": "It has a crack. Large."}
        }
        for dataset, name in _OBJECTS.items()
        if dataset != "VisA"
    }
    (folder / "domain_knowledge.json").write_text(json.dumps(known, indent=1), encoding="utf-8")
    path = folder / "mmad.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def write_manta(folder: Path) -> Path:
    """JsonData/medicine_QA.json of three images, one of them with a reference; its path."""
    items: list[dict[str, Any]] = []
    for number, label in enumerate(("crack", "crack", "good")):
        image = f"ImageData/medicine/capsule/test/{label}/medicine_capsule_{number:04}.png"
        picture(folder / image, number)
        asked = [{"question_en": f"Is it {word}?", "answer": (number + i) % 3 > 0} for i, word in enumerate("abcde")]
        items.append(
            {
                "domain": "medicine",
                "test_image": image,
                "pair_type": "defect identification",
                "conclusion_en": "The capsule has a red square on it.",
                "question_answer": asked,
            }
        )
        diagnosis = [
            {"question_en": f"Would it {word}?", "answer": number == 1, "conclusion_en": "It leaks."} for word in "xyz"
        ]
        items.append({"test_image": image, "pair_type": "defect diagnosis", "question_answer": diagnosis})
    reference = "ImageData/medicine/capsule/train/good/medicine_capsule_0009.png"
    picture(folder / reference, 9)
    for item in items[:2]:
        item["reference_image"] = reference
    path = folder / "JsonData" / "medicine_QA.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(items, indent=1), encoding="utf-8")
    return path
