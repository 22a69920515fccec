# SPDX-License-Identifier: Apache-2.0
"""What SAGE reads: pictures cut into tiles, facts as tokens, and the prompt with its placeholders, left-padded.

The settings are those under `sage` in config.json; the tokenizer is tokenizer.json.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
import torch
from PIL import Image, ImageOps

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
BLUR_PX = 2.0
COMPARED_PX = 1024
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclasses.dataclass(frozen=True)
class SageExample:
    """One question about one part.

    Attributes:
      image: The picture to judge.
      question: What is asked.
      facts: Sentences about the part and the anomalies that its kind tends to show; may be empty.
      reference: A picture of a good part, None = judge the image alone.
    """

    image: Image.Image
    question: str
    facts: Sequence[str] = ()
    reference: Image.Image | None = None


def rgb(image: Image.Image, bits: int = 16) -> Image.Image:
    """The picture upright and in RGB: grey of so many of 16 bits scaled, transparency laid on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in WIDE_MODES:
        highest = 2**bits - 1
        values = np.minimum(np.asarray(image).astype(np.uint32), highest)
        image = Image.fromarray(((values * 255 + highest // 2) // highest).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def tile_grid(width: int, height: int, *, tile_px: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of the grid nearest in aspect ratio; of equally near ones the largest below twice the area."""
    grids = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles]
    grids.sort(key=lambda grid: (grid[0] * grid[1], grid[0]))
    best, smallest = (1, 1), float("inf")
    for columns, rows in grids:
        distance = abs(width / height - columns / rows)
        if distance < smallest:
            best, smallest = (columns, rows), distance
        elif distance == smallest and width * height > 0.5 * tile_px**2 * columns * rows:
            best = (columns, rows)
    return best


def cut_tiles(image: Image.Image, *, tile_px: int, max_tiles: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Tiles [T, H, W, 3] of 0..255, row by row, the whole picture last where there is more than one; and the grid."""
    columns, rows = tile_grid(*image.size, tile_px=tile_px, max_tiles=max_tiles)
    stretched = np.asarray(image.resize((columns * tile_px, rows * tile_px), Image.Resampling.BICUBIC))
    tiles = stretched.reshape(rows, tile_px, columns, tile_px, 3).swapaxes(1, 2).reshape(-1, tile_px, tile_px, 3)
    if columns * rows > 1:
        whole = np.asarray(image.resize((tile_px, tile_px), Image.Resampling.BICUBIC))
        tiles = np.concatenate([tiles, whole[None]])
    return tiles, (columns, rows)


def lay_back(values: np.ndarray, grid: tuple[int, int], *, tokens_per_side: int, width: int, height: int) -> np.ndarray:
    """Token values [M] over the picture, float32 [height, width], bilinear; those of the thumbnail are left out."""
    columns, rows = grid
    inside = values[: rows * columns * tokens_per_side**2].astype(np.float32)
    laid = inside.reshape(rows, columns, tokens_per_side, tokens_per_side).swapaxes(1, 2)
    laid = np.ascontiguousarray(laid.reshape(rows * tokens_per_side, columns * tokens_per_side))
    return np.array(Image.fromarray(laid).resize((width, height), Image.Resampling.BILINEAR))


def drawn_finer(tokens: np.ndarray, image: Image.Image, reference: Image.Image, cells: tuple[int, int]) -> np.ndarray:
    """A map [height, width] of a registered pair, drawn finer by its pixels.

    At each pixel it is the geometric mean of the highest value of the tokens within a token's width, and of the
    absolute difference to the reference: mean over channels, blurred, as share of the range of grey levels. Larger
    pictures are compared at 1,024 px.

    Args:
      tokens: What the tokens say, laid over the picture.
      cells: Rows and columns of tokens.
    """
    size = image.size
    reference = reference if reference.size == size else reference.resize(size, Image.Resampling.BILINEAR)
    if max(size) > COMPARED_PX:
        share = COMPARED_PX / max(size)
        smaller = (max(1, round(size[0] * share)), max(1, round(size[1] * share)))
        image, reference = (each.resize(smaller, Image.Resampling.BOX) for each in (image, reference))
    apart = np.abs(np.asarray(image, np.float32) - np.asarray(reference, np.float32)).mean(axis=-1) / 255.0
    reach = int(4.0 * BLUR_PX + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / BLUR_PX) ** 2)
    near = stretched(tokens, image.size)
    for axis, (pixels, number) in enumerate(zip(apart.shape, cells, strict=True)):
        apart = windows(apart, (reach, reach), axis) @ (weights / weights.sum())
        width = max(1, round(pixels / number))
        near = windows(near, (width // 2, width - 1 - width // 2), axis).max(axis=-1)
    return stretched(np.sqrt(np.clip(near, 0.0, 1.0) * apart), size)


def windows(values: np.ndarray, beside: tuple[int, int], axis: int) -> np.ndarray:
    """Each value with so many before and behind it on a new last axis; borders are repeated."""
    padded = np.pad(values, [beside if each == axis else (0, 0) for each in range(values.ndim)], mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, sum(beside) + 1, axis=axis)


def stretched(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values [height, width] at another width and height, bilinear."""
    if values.shape == size[::-1]:
        return values.astype(np.float32)
    return np.array(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


class SageProcessor:
    """Examples to model inputs, and token ids back to text.

    The parts of a prompt are encoded one by one and as plain text, so that a special token's name inside a question
    or a fact stays a string of letters.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
        """`settings`: what config.json says under `sage`."""
        tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.settings = tokenizer, settings

    def __call__(self, examples: SageExample | Sequence[SageExample]) -> dict[str, torch.Tensor]:
        """Inputs of `SageModel.forward` and `generate`, one row an example."""
        examples = [examples] if isinstance(examples, SageExample) else list(examples)
        tiles = [self.tiles(example.image)[0] for example in examples]
        references = [None if e.reference is None else self.tiles(e.reference)[0] for e in examples]
        per_tile = self.settings["tokens_per_side"] ** 2
        shown = [0 if r is None or self.settings["reference"] != "prompt" else len(r) for r in references]
        prompts = [
            self.prompt_ids(example, len(part) * per_tile, number * per_tile)
            for example, part, number in zip(examples, tiles, shown, strict=True)
        ]
        asked = [len(self._asked(example)) for example in examples]
        facts = [self._facts(example) if self._fuses else [] for example in examples]
        longest = max(map(len, prompts))
        inputs = {
            "input_ids": torch.tensor([[self.settings["pad_id"]] * (longest - len(ids)) + ids for ids in prompts]),
            "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
            "question_mask": torch.arange(longest) >= longest - torch.tensor(asked)[:, None],
            "pixel_values": pixel_values(np.concatenate(tiles)),
            "num_tiles": torch.tensor([len(part) for part in tiles]),
        }
        if any(reference is not None for reference in references):
            given = [reference for reference in references if reference is not None]
            inputs["reference_pixel_values"] = pixel_values(np.concatenate(given))
            inputs["num_reference_tiles"] = torch.tensor([0 if r is None else len(r) for r in references])
        if any(facts):
            inputs |= self._padded_facts(facts)
        return inputs

    def _rgb(self, image: Image.Image) -> Image.Image:
        return rgb(image, self.settings.get("bits", 16))

    def tiles(self, image: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
        """Tiles of a picture and their grid."""
        return cut_tiles(self._rgb(image), tile_px=self.settings["tile_px"], max_tiles=self.settings["max_tiles"])

    def anomaly_map(
        self, image: Image.Image, similarity: np.ndarray, reference: Image.Image | None = None
    ) -> np.ndarray:
        """The map [height, width], larger where the picture is unlike its reference.

        It is 1 - similarity [M] laid back over the picture; with the reference, where the settings say so, drawn finer.
        """
        upright, (columns, rows) = self._rgb(image), self.tiles(image)[1]
        side, (width, height) = self.settings["tokens_per_side"], upright.size
        laid = lay_back(1.0 - similarity, (columns, rows), tokens_per_side=side, width=width, height=height)
        if reference is None or self.settings.get("map_detail") != "pixels":
            return laid
        return drawn_finer(laid, upright, self._rgb(reference), (rows * side, columns * side))

    def prompt_ids(self, example: SageExample, num_image_tokens: int, num_reference_tokens: int = 0) -> list[int]:
        """Token ids up to where the answer begins.

        Args:
          num_image_tokens: Of all tiles.
          num_reference_tokens: Of the reference, where it stands in the prompt too.
        """
        settings, ids = self.settings, list(self.settings["opening_ids"])
        if settings["system"]:
            between = self._encode(settings["between"])
            ids += [*self._turn("system", settings["system"]), settings["end_id"], *between]
        if num_reference_tokens:
            ids += [*self._turn("user", "Image-1: "), *self._image(num_image_tokens)]
            ids += [*self._encode("\nImage-2: "), *self._image(num_reference_tokens)]
        else:
            ids += [*self._turn("user", ""), *self._image(num_image_tokens)]
        facts = self._sentences(example)
        if self._fuses:
            ids += [*self._encode("\n"), *[settings["comparison_id"]] * len(facts)]
            at_prefix = settings["assist_position"] == "prefix" and settings["assist_prompt"].strip()
            ids += self._encode(f"\n{at_prefix}\n" if at_prefix else "\n")
        else:
            sentences = " ".join(facts)
            ids += self._encode(f"\n{sentences}\n" if sentences else "\n")
        return [*ids, *self._asked(example)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to the token that closes the turn."""
        kept = list(itertools.takewhile(lambda token: token not in self.settings["stop_ids"], map(int, ids)))
        return self.tokenizer.decode(kept, skip_special_tokens=True).strip()

    @property
    def _fuses(self) -> bool:
        return self.settings["facts_as"] == "fusion"

    def _sentences(self, example: SageExample) -> list[str]:
        given = [fact.strip() for fact in example.facts if fact.strip()]
        return given[: self.settings["max_facts"]]

    def _facts(self, example: SageExample) -> list[list[int]]:
        most, encoded = self.settings["max_fact_tokens"], []
        for fact in self._sentences(example):
            encoded.append(self._encode(fact))
            if len(encoded[-1]) > most:
                raise ValueError(
                    f"fact {fact!r} has {len(encoded[-1])} tokens, at most {most} were trained: shorten it"
                )
        return encoded

    def _padded_facts(self, facts: list[list[list[int]]]) -> dict[str, torch.Tensor]:
        """Facts' token ids [B, F, J], 0 where there is none, and their mask."""
        shape = (len(facts), self.settings["max_facts"], self.settings["max_fact_tokens"])
        ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        for row, sentences in enumerate(facts):
            for place, sentence in enumerate(sentences):
                ids[row, place, : len(sentence)] = torch.tensor(sentence)
                mask[row, place, : len(sentence)] = True
        return {"fact_ids": ids, "fact_mask": mask}

    def _asked(self, example: SageExample) -> list[int]:
        """The question, up to where the answer begins."""
        settings = self.settings
        question = example.question if settings["as_given"] else example.question.strip()
        assist = settings["assist_prompt"].strip()
        if assist and self._fuses and settings["assist_position"] == "question":
            question = f"{question} {assist}" if question else assist
        between = self._encode(settings["between"])
        return [*self._encode(question, after="\n"), settings["end_id"], *between, *self._turn("assistant", "")]

    def _image(self, num_tokens: int) -> list[int]:
        start, image, end = self.settings["image_ids"]
        return [start, *[image] * num_tokens, end]

    def _turn(self, role: str, content: str) -> list[int]:
        return [self.settings["start_id"], *self._encode(f"{role}\n{content}")]

    def _encode(self, text: str, after: str = "") -> list[int]:
        """Ids of a text that goes on from another: SentencePiece opens a text that stands alone with a space."""
        if not text:
            return []
        before = self.tokenizer.encode(after, add_special_tokens=False).ids if after else []
        ids = self.tokenizer.encode(after + text, add_special_tokens=False).ids
        if ids[: len(before)] != before:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids[len(before) :]


def pixel_values(tiles: np.ndarray) -> torch.Tensor:
    """Tiles [T, H, W, 3] of 0..255 as ImageNet-standardised float32 [T, 3, H, W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(tiles)).float() / 255.0
    return ((pixels - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_DEVIATION)).permute(0, 3, 1, 2)
