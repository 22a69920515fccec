"""Config of data and text: the source of the records, and the shapes that their text takes."""

from __future__ import annotations

import dataclasses
import typing
from typing import Final, Literal

from sage_jax.config.checks import (
    require,
    require_above_zero,
    require_known,
    require_not_negative,
    require_seed,
    require_share,
)

PairType = Literal["standard comparison", "defect identification", "defect diagnosis"]

Reader = Literal["generator", "folder", "deeppcb", "mvtec", "visa", "meta", "real_iad", "adpl", "rows"]
"""What reads a data set."""

SetName = Literal["mvtec_ad", "mvtec_ad2", "loco", "btad", "mpdd", "goodsad", "ksdd", "ksdd2", "dagm", "manta"]
"""Names of public data sets, beside those that readers bear; the run finds their reader."""

Source = Literal[Reader, SetName, "auto"]
"""What `data.source` may be; `auto` has the run find the reader."""

OF_IMAGES: Final = ("folder", "mvtec", "visa", "meta", "real_iad")
"""Readers that give an image several references."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where records come from and how they are stored.

    Attributes:
      source: The data set's name, a reader, or `auto`, which finds out what `root` is and says so in `check` and
        `prepare`. Names: `mvtec_ad`, `mvtec_ad2`, `loco`, `visa`, `btad`, `mpdd`, `goodsad`, `real_iad`, `ksdd`,
        `ksdd2`, `dagm`, `manta`, `deeppcb`; another tree under `root` is an error that says which. Readers: `generator`
        (built in), `folder` (a user's own: good parts alone, or a folder for each kind of defect; public trees too),
        `mvtec` (public trees of folders alone), `meta` (a meta.json as AnomalyCLIP and ADer read it), `adpl` (AD-PL
        JSON) or `rows` (rows of TRL, LLaMA-Factory, ms-swift, LLaVA, InternVL and SAGE's SFE;
        docs/how-to/rows-of-other-trainers.md).
      root: Folder of the data set, or its JSON file for `adpl`, `meta`, `rows` and `real_iad`; unused by `generator`.
      images_root: `adpl`, `meta`, `rows` and `real_iad`: folder that the JSON's image paths are relative to; "" = the
        JSON's own folder, or for `real_iad` the one `realiad_<size>` beside it.
      language: Texts of `adpl` that are read: the English (`en`) or the Chinese (`zh`) ones. The question of
        inspection, the assist prompt and the question for facts are in this language as well.
      cache_dir: Where built data sets are kept, keyed by content hash, and compiled programs (`compiled/`).
      vocabulary: TOML file of objects and defects, for facts and preferences; "" = the built-in one.
      facts: Whose sentences the facts of an image are, in training, evaluation and inspection: those of its record, or
        of the `vocabulary` where that has none; those of its `record` alone; or those that a `model` has written about
        each image in stage `facts` (the paper).
      on_bad_record: `fail` stops at the first fault, `skip` leaves the record out and lists it in the run directory.
      num_train: Images drawn for training; 0 = all there are (not for `generator`).
      num_test: Images drawn for testing; 0 = all.
      test_seed: Seed of the draws and wording of testing, which `seed` does not change: runs of all training seeds are
        scored on the same images and questions.
      image_px: Side of a generated image or a DeepPCB crop; 0 = whole images.
      shrink_px: Longer side that larger photographs of `folder` are shrunk to when they are stored; 0 = as they are.
      bits: Bits that the grey values of 16-bit files really have: 8, 10, 12, 14 or 16. 0 = found out by
        the data set's largest value, and told; inspection then takes the same. A file that states its own depth (PNG's
        sBIT, TIFF's MaxSampleValue) is read by that.
      held_out: Categories kept for testing. Empty: the source's own split, or `test_fraction` by hash.
      test_fraction: Share of images kept for testing where the source has no split and nothing is held out; 0 = none,
        1 = all.
      validation_fraction: Share of training images, taken by the hash of their id, that no stage trains on and that
        stages with `eval_every` validate on; 0 = none.
      drawn_defects: Defective images drawn of each good training image, beside as many good copies of it that vary as
        photographs do (docs/how-to/good-parts-alone.md); 0 = none. Not for `generator`, `adpl` and `rows`.
      drawn_variation: How much copies vary: 1 = edges by about a pixel, light by a tenth, noise of 2 %; 0 = not at all.
      register: `rigid` turns and shifts each reference so that the part lies in it as in the test image, in training,
        evaluation and inspection, for parts that do not lie to a pixel; `none` compares images as they lie.
      num_references: Good images that an image is compared with, in training and evaluation, where the source has so
        many: more than 1 for surfaces without position, or parts that differ from each other. Read from folders and
        lists of images (`folder`, `mvtec`, `visa`, `meta`, `real_iad`); `rows` name their own.
      defect_rate: Share of defective images drawn by `generator` and `deeppcb`.
      asked_present_rate: Share of a defective part's training questions about kinds of defect and consequences that ask
        for what the part shows; in test questions it is 0.85. Lower teaches to tell kinds apart. Not for `adpl` and
        `rows`, whose questions are given.
      pair_types: Kinds of question that preferences are made for.
      records_per_image: Kinds made of each annotated image, taken in turn from `pair_types`.
      num_workers: Grain worker processes; 0 = threads of the main process.
      prefetch: Batches kept ready.
      group_batches: Batches of training whose trees are drawn together, sorted by length and cut into batches again, so
        that a batch has trees of about one length and little padding; 0 = each batch as it is drawn.
      vit_features: Where stages that do not train the ViT get its features from: `none` computes them with each batch;
        `memory` computes those of each distinct image of a batch once, before the step, and keeps them for later
        batches: for references that many images share, and for a data set whose features the memory holds; `disk`
        computes those of all training images once and keeps them in `cache_dir`, by weights and data: for many epochs
        and stages. The stage `plan` tells the room that they take.
      vit_memory_mb: Host memory of each process for the features of `vit_features=memory`, in MB (10^6 bytes); beyond,
        the least recently used image is dropped. 0 = none are kept, but an image is computed once a batch even so.
    """

    source: Source = "generator"
    root: str = ""
    images_root: str = ""
    language: Literal["en", "zh"] = "en"
    cache_dir: str = "~/.cache/sage_jax"
    vocabulary: str = ""
    facts: Literal["vocabulary", "record", "model"] = "vocabulary"
    on_bad_record: Literal["fail", "skip"] = "fail"
    num_train: int = 4000
    num_test: int = 200
    test_seed: int = 0
    image_px: int = 64
    shrink_px: int = 0
    bits: int = 0
    held_out: tuple[str, ...] = ()
    test_fraction: float = 0.2
    validation_fraction: float = 0.0
    drawn_defects: int = 0
    drawn_variation: float = 1.0
    register: Literal["none", "rigid"] = "none"
    num_references: int = 1
    defect_rate: float = 0.5
    asked_present_rate: float = 0.85
    pair_types: tuple[str, ...] = ("standard comparison", "defect identification", "defect diagnosis")
    records_per_image: int = 1
    num_workers: int = 0
    prefetch: int = 2
    group_batches: int = 0
    vit_features: Literal["none", "memory", "disk"] = "none"
    vit_memory_mb: int = 4096

    def __post_init__(self) -> None:
        require_share(self, "defect_rate")
        require_share(self, "asked_present_rate")
        require_share(self, "test_fraction")
        require(
            0.0 <= self.validation_fraction < 1.0,
            f"validation_fraction = {self.validation_fraction}: give a share from 0 to below 1",
        )
        require_not_negative(self, "num_train", "num_test", "image_px", "num_workers", "prefetch", "group_batches")
        require_not_negative(self, "vit_memory_mb", "drawn_defects", "drawn_variation", "shrink_px")
        require_above_zero(self, "num_references")
        require(self.bits in (0, 8, 10, 12, 14, 16), f"bits = {self.bits}: give 8, 10, 12, 14 or 16; 0 = found out")
        if self.is_read:
            self._check_source()
        require_seed("test_seed", self.test_seed)
        require_known("pair_types", self.pair_types, typing.get_args(PairType), "kind")
        kinds = len(self.pair_types)
        require(
            1 <= self.records_per_image <= kinds,
            f"records_per_image = {self.records_per_image}: give 1 to {kinds}, the number of pair_types",
        )
        if self.source == "generator":
            require_above_zero(self, "num_train", "num_test", "image_px")
        else:
            name = "data set" if self.source == "auto" else f"{self.source} data set"
            require(bool(self.root), f"root is empty: name the folder or file of the {name}")

    @property
    def is_read(self) -> bool:
        """Whether `source` is a reader, and no name that the run has yet to find one for."""
        return self.source in typing.get_args(Reader)

    def _check_source(self) -> None:
        """Checks the fields that not every reader takes.

        Raises:
          ConfigError: One is given to a reader that does not.
        """
        require(
            self.source == "folder" or not self.shrink_px,
            f"shrink_px = {self.shrink_px}: read with source=folder alone; leave it 0",
        )
        require(
            self.source == "adpl" or self.language == "en",
            f"language = {self.language!r}: AD-PL alone has texts of another language; set source=adpl, or leave it en",
        )
        drawable = self.source not in ("generator", "adpl", "rows")
        require(
            drawable or not self.drawn_defects,
            f"drawn_defects = {self.drawn_defects}: {self.source} gives no photographs of good parts; leave it 0",
        )
        require(
            self.source in ("adpl", "rows") or self.facts != "record",
            f"facts = 'record': {self.source} gives its records no facts of their own; set vocabulary or model",
        )
        given = "name their own" if self.source == "rows" else "gives an image one reference"
        require(
            self.source in OF_IMAGES or self.num_references == 1,
            f"num_references = {self.num_references}: {self.source} {given}; leave it 1",
        )


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Tokenizer, chat template and the shapes of the tree.

    Attributes:
      vocab_size: Size of the tokenizer trained on the corpus.
      max_facts: Fact sentences of an image (F); fewer are masked, more are left out.
      max_fact_tokens: Tokens of a fact sentence (J).
      max_answer_tokens: Tokens of an answer (L), closing token included.
      buckets: Tree lengths that batches are padded to, ascending; the fewer, the fewer compilations. Empty: each stage
        chooses `num_shapes` from the texts that it will draw, so that padding is least.
      num_shapes: Most shapes that a training stage pads its batches to where it chooses them; for each its step is
        compiled once.
      assist_prompt: Sentence that tells the decoder what the comparison embeddings are; where it is left as it is, in
        the language of `data.language`.
      assist_position: `question` closes each question with it (the paper), `prefix` the comparison embeddings.
      reference: How the decoder gets the reference image: `fusion`, through the comparison embeddings alone (the
        paper), or `prompt`, as a second image behind the test image too, where a row shows one.
      system: System message; "" = the one that the checkpoint was released with (`none` leaves it out), and none for
        models trained here.
    """

    vocab_size: int = 768
    max_facts: int = 4
    max_fact_tokens: int = 32
    max_answer_tokens: int = 40
    buckets: tuple[int, ...] = ()
    num_shapes: int = 2
    assist_prompt: str = "Above is the feature related to the anomaly facts."
    assist_position: Literal["question", "prefix"] = "question"
    reference: Literal["fusion", "prompt"] = "fusion"
    system: str = ""

    def __post_init__(self) -> None:
        require_above_zero(self, "vocab_size", "max_facts", "max_fact_tokens", "max_answer_tokens", "num_shapes")
        ascending = self.buckets == tuple(sorted(set(self.buckets)))
        require(
            ascending and min(self.buckets, default=1) > 0,
            f"buckets = {self.buckets}: give ascending lengths, or none, which chooses them from the data",
        )
