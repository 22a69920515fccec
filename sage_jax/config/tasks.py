"""Config of the stages that do not train: evaluate, inspect, export, rows, ablate, plan."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from sage_jax.config.checks import (
    require,
    require_above_zero,
    require_known,
    require_not_negative,
    require_seed,
    require_share,
)
from sage_jax.config.stages import TRAINING_STAGES


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How the tokens of answers are chosen, in evaluation and inspection.

    Attributes:
      method: `greedy` takes the likeliest token, `sample` draws one, `checkpoint` does what generation_config.json of
        `model.weights` says, stop tokens aside, which count with every method.
      temperature: Of `sample`: logits are divided by it.
      top_p: Of `sample`: tokens are drawn among the likeliest that have this probability together; 1 = all.
      top_k: Of `sample`: tokens are drawn among so many likeliest; 0 = all.
      repetition_penalty: Makes tokens less likely that stand in the conversation already, prompt and answers, with
        `greedy` too; 1 = none. As in transformers.
      seed: Of the draws. An image's draws depend on it, on the image's name and on the question's number alone.
      map_places: Weight of the anomaly map's log-odds in the choice between the words of places, so that an answer
        names the cell of a region that the map shows; 0 = the decoder alone chooses. Reads maps of one tile.
    """

    method: Literal["greedy", "sample", "checkpoint"] = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    map_places: float = 0.0

    def __post_init__(self) -> None:
        require_above_zero(self, "temperature", "top_p", "repetition_penalty")
        require_share(self, "top_p")
        require_not_negative(self, "top_k", "seed", "map_places")
        require(self.seed < 2**32, f"seed = {self.seed}: must be below 2^32")
        of_method = {"greedy": ("repetition_penalty",), "checkpoint": ()}
        for name in ("temperature", "top_p", "top_k", "repetition_penalty"):
            given = getattr(self, name)
            neutral = 0 if name == "top_k" else 1.0
            unread = self.method != "sample" and name not in of_method[self.method] and given != neutral
            require(not unread, f"{name} = {given} has no effect with method = {self.method!r}: set method = 'sample'")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation of trained stages on the test records.

    Attributes:
      stages: Stages to score, those with a checkpoint in `run_dir`.
      batch_size: Images decoded at once; 0 = as many as the memory of the devices holds, 64 where they do not tell it,
        as a CPU does not.
      max_new_tokens: Longest answer.
      decoding: How its tokens are chosen.
      weights_dtype: Of the kernels and embeddings that evaluation and inspection answer with: `float32`; `bfloat16`;
        or `int8` kernels in the blocks, with a scale for each column. The narrower, the less memory they take and the
        less a decoded token reads; on CPU, where they are widened for each token, decoding is slower.
      map_detail: What the anomaly map of evaluation and inspection is made of: `tokens`, 1 - similarity of each image
        token (SFE); or `pixels`, ours, where `model.fusion.similarity` is `aligned` and pairs lie to a pixel: the same
        drawn finer by the absolute difference to the reference. Boxes, places and scores are read from tokens.
      bootstrap_samples: Resamples of the 95 % intervals.
      num_records: Test records used; 0 = all.
      name: Folder below `run_dir`/evaluations that the results go to; "" = `run_dir` itself for the data that the run
        was trained on, and a folder by source and revision for any other.
    """

    stages: tuple[str, ...] = ("base", "sfe", "edpo")
    batch_size: int = 0
    max_new_tokens: int = 40
    decoding: DecodingConfig = DecodingConfig()
    weights_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    map_detail: Literal["tokens", "pixels"] = "pixels"
    bootstrap_samples: int = 1000
    num_records: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        require(bool(self.stages), f"stages is empty: name some of {', '.join(TRAINING_STAGES)}")
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")
        require_above_zero(self, "max_new_tokens", "bootstrap_samples")
        require_not_negative(self, "batch_size", "num_records")
        require(
            not self.name or re.fullmatch(r"[\w-][\w.-]*", self.name) is not None,
            f"name = {self.name!r}: give letters, digits, '-', '_' and '.': it becomes a folder",
        )

    @property
    def rows(self) -> int:
        """Images of a batch whose memory is not looked at."""
        return self.batch_size or 64


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Inspection of a user's images.

    Attributes:
      images: An image, a folder, or a text file with a path a line; "" = a sample of the test records.
      references: An image, a folder (the file of the image's own name, or a folder of that name, else its first
        images), or ""; none = zero-shot.
      num_references: Most references of an image, compared with all at once; 0 = `data.num_references`.
      questions: Asked about each image after the question whether there is a defect; their answers go to the rows and
        the report.
      ask: How: `together`, each for itself, all of an image at once, as training and evaluation do; or `in_turn`, in
        one conversation, in which each answer knows those before, and which takes longer.
      facts: Whose sentences the comparison embeddings are made of: those that `data.facts` says, as in training; or
        those that the `model` which answers writes about each image first, in the same conversation.
      fact_tokens: Longest text of an image's facts that the answering model writes.
      category: What the part is, for question and facts; "" = taken from the folder name where known.
      stage: Stage whose checkpoint answers; "" = the last trained one.
      threshold: Anomaly score, 0 to 1, from which the verdict is "defective"; below 0 = the one that stage `calibrate`
        found for the model, 0.5 without.
      map_threshold: Of 1 - similarity, from which a peak of the map gets a box.
      output: Folder of the results; "" = `run_dir`/inspect.
      max_images: Most images of the embedded sample.
      report_images: Most images in the HTML report: unreadable ones, then those of highest score; the JSONL has all.
      reference_memory_mb: Memory for the ViT's features of references, in MB (10^6 bytes), so that a reference of many
        images is computed once; the least recently used are dropped. 0 = computed with each image.
    """

    images: str = ""
    references: str = ""
    num_references: int = 0
    questions: tuple[str, ...] = ()
    ask: Literal["together", "in_turn"] = "together"
    facts: Literal["data", "model"] = "data"
    fact_tokens: int = 96
    category: str = ""
    stage: str = ""
    threshold: float = -1.0
    map_threshold: float = 0.5
    output: str = ""
    max_images: int = 24
    report_images: int = 500
    reference_memory_mb: int = 512

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,) if self.stage else (), TRAINING_STAGES, "training stage")
        require(all(map(str.strip, self.questions)), f"questions = {self.questions}: one of them is empty")
        require(self.threshold <= 1.0, f"threshold = {self.threshold}: give a share from 0 to 1, or -1")
        require_not_negative(self, "map_threshold", "reference_memory_mb", "num_references")
        require_above_zero(self, "max_images", "report_images", "fact_tokens")


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """Choice of the threshold by images that nobody trained on; they are read as `inspect` reads its own.

    Attributes:
      good: Good images: a folder, or a text file with a path a line.
      defective: Defective ones, likewise; "" = none, and nothing is known of escapes then.
      references: As `inspect.references`; "" = those of `inspect`.
      false_alarm_rate: Share of good images that may be called defective.
      escape_rate: Share of defective images that may be called good, with 95 % confidence; needs `defective`. The
        threshold is then the highest one that keeps it, if that one keeps `false_alarm_rate` as well. 0 = not asked.
      unsure_rate: Share of good images that may be called unsure for being unlike those calibrated on; of n images no
        less than 1 / (n + 1) can be promised. 0 = none ever are.
      join_map: Whether the score of images with a reference may join the verdict with the map's peak and, of registered
        pairs, the largest difference of their pixels. The weights are learnt on a third of the good images and half of
        the defective ones, or by how far that third spreads where these are fewer than 10, and the threshold is found
        on the others; where good images are too few for that, or for the rates, the score is the verdict's alone.
      by_category: Whether each kind of part with enough good images for the rate keeps it by itself: its scores are
        shifted so that its own threshold lies at one half, as those of all others do. Kinds are those of
        `inspect.category`, where images lie in folders of their names.
    """

    good: str = ""
    defective: str = ""
    references: str = ""
    false_alarm_rate: float = 0.05
    escape_rate: float = 0.0
    unsure_rate: float = 0.02
    join_map: bool = True
    by_category: bool = True

    def __post_init__(self) -> None:
        require(0.0 <= self.unsure_rate < 1.0, f"unsure_rate = {self.unsure_rate}: give a share from 0 to below 1")
        require(0.0 <= self.escape_rate < 1.0, f"escape_rate = {self.escape_rate}: give a share from 0 to below 1")
        require(
            not self.escape_rate or bool(self.defective) or not self.good,
            f"escape_rate = {self.escape_rate}: name defective images with calibrate.defective",
        )
        rate = self.false_alarm_rate
        require(0.0 < rate < 1.0, f"false_alarm_rate = {rate}: give a share between 0 and 1, such as 0.05")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export of a trained stage to a folder that transformers loads.

    Attributes:
      stage: Stage whose model is exported; "" = the last trained one.
      folder: A new folder; "" = `run_dir`/export.
      layout: `internvl` (transformers, with SAGE's torch module) or `internvl_chat` (OpenGVLab's, weights alone).
      dtype: Of all weights.
      max_shard_gb: Largest file of the plain model's weights, 10^9 bytes.
      license: Licence of the exported model for its card, such as `apache-2.0`; "" = the card states its base's alone.
      data_license: Terms of the training data for its card, in words.
      base_model: Name on the hub of what `model.weights` holds, such as `OpenGVLab/InternVL3-1B-hf`; "" = unknown.
      upload_to: Repository on the Hugging Face Hub, `user/name`; "" = no upload.
      private: Whether a repository made by the upload is private.
    """

    stage: str = ""
    folder: str = ""
    layout: Literal["internvl", "internvl_chat"] = "internvl"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_shard_gb: float = 5.0
    license: str = ""
    data_license: str = ""
    base_model: str = ""
    upload_to: str = ""
    private: bool = True

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,) if self.stage else (), TRAINING_STAGES, "training stage")
        require_above_zero(self, "max_shard_gb")
        for name in ("upload_to", "base_model"):
            given = getattr(self, name)
            require(
                not given or re.fullmatch(r"[\w.-]+/[\w.-]+", given) is not None,
                f"{name} = {given!r}: give user/name, as the Hugging Face Hub has it",
            )


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """The data set as files of other trainers: TRL's preference rows, and AD-PL's JSON.

    Attributes:
      pairs: Preferences of a question's ranked answers: `all` = each better answer with each worse, `extreme` = the
        best with the worst.
      folder: Folder of the files; "" = `run_dir`/rows.
    """

    pairs: Literal["all", "extreme"] = "all"
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """Ablation over seeds: base, plain facts, SFE, DPO and E-DPO are trained and scored with each.

    Attributes:
      seeds: Seeds, each a run of its own.
      stages: Training stages to score, in this order.
      max_facts: Values of `text.max_facts` (F), for each of which all seeds are trained, in place of the config's own;
        with `num_distinct` figure 7 of the paper.
      num_distinct: Values of `model.fusion.num_distinct` (K), likewise.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    stages: tuple[str, ...] = ("base", "plain", "sfe", "base_dpo", "dpo", "edpo")
    max_facts: tuple[int, ...] = ()
    num_distinct: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.seeds), "seeds is empty: give one or more, such as (0, 1, 2)")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds = {self.seeds}: give each seed once")
        for seed in self.seeds:
            require_seed("seeds", seed)
        require(bool(self.stages), f"stages is empty: name some of {', '.join(TRAINING_STAGES)}")
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")
        for name in ("max_facts", "num_distinct"):
            values = getattr(self, name)
            distinct = len(set(values)) == len(values) and min(values, default=1) > 0
            require(distinct, f"{name} = {values}: give numbers above 0, each once")


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Sizes on paper: what training stages take on devices that need not be there.

    Attributes:
      stages: Training stages to plan.
      device: Kind of the devices; memory and peak of each kind are in `sage_jax/plan/device_kinds.py`.
      num_devices: Devices that the mesh is made of.
      device_memory_gb: Memory of a device in GB (10^9 bytes); 0 = that of its kind.
      usable_share: Share of the memory that arrays may take; the rest is for the runtime, communication and
        fragmentation. On GPUs, XLA_PYTHON_CLIENT_MEM_FRACTION must be as high.
      vocab_size: Rows of the token embedding; 0 = `text.vocab_size`, or the checkpoint's where it is opened.
      prompt_tokens: Tokens of system message and template.
      question_tokens: Tokens of a question.
      num_questions, num_answers: Questions of an image, and ranked answers of a question, in the data set.
      num_images: Distinct images of the training data, references too, for the disk or the share of memory that
        `data.vit_features` takes; 0 = two for each of `data.num_train`.
      compile: Whether the step is also compiled for simulated devices, which gives communication and the compiler's
        own memory; without, the plan takes seconds.
    """

    stages: tuple[str, ...] = ("sfe", "edpo")
    device: Literal["h200", "h100", "a100-80", "a100-40", "l40s", "l4", "rtx4090", "v4", "v5e", "v5p", "v6e"] = "h100"
    num_devices: int = 1
    device_memory_gb: float = 0.0
    usable_share: float = 0.92
    vocab_size: int = 0
    prompt_tokens: int = 64
    question_tokens: int = 100
    num_questions: int = 5
    num_answers: int = 4
    num_images: int = 0
    compile: bool = True

    def __post_init__(self) -> None:
        require(bool(self.stages), f"stages is empty: name some of {', '.join(TRAINING_STAGES)}")
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")
        require_above_zero(self, "num_devices", "usable_share", "num_questions", "num_answers")
        require_share(self, "usable_share")
        require_not_negative(self, "device_memory_gb", "vocab_size", "prompt_tokens", "question_tokens", "num_images")
