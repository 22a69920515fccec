"""Config of a run: all that `python -m sage_jax.main --config FILE` reads."""

from __future__ import annotations

import dataclasses

from sage_jax.config.benchmark import BenchmarkConfig
from sage_jax.config.checks import require, require_known, require_seed
from sage_jax.config.data import DataConfig, TextConfig
from sage_jax.config.facts import FactsConfig
from sage_jax.config.judging import JudgeConfig
from sage_jax.config.learning import LearnConfig
from sage_jax.config.model import MeshConfig, ModelConfig
from sage_jax.config.serving import ServeConfig
from sage_jax.config.stages import STAGES, TRAINING_STAGES
from sage_jax.config.tasks import (
    AblateConfig,
    CalibrateConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    PlanConfig,
    RowsConfig,
)
from sage_jax.config.training import PreferenceConfig, TrainConfig
from sage_jax.config.watching import ReviewConfig, WatchConfig


def _require_preferences(stage: str, train: TrainConfig) -> None:
    """Checks that a stage that learns preferences has pairs to learn from, as its reference policy sees them."""
    for name, needed in (("answers", "ranked"), ("questions", "inspection"), ("facts", "fusion")):
        given = getattr(train, name)
        require(given == needed, f"{stage}.{name} = {given!r}: preferences are learnt from {needed!r}")
    weights = train.preference
    require(
        weights.lambda_hard + weights.lambda_easy > 0,
        f"{stage}.preference.lambda_hard and lambda_easy are 0: no pair would train; give one of them a weight",
    )
    require(
        weights.sigmoid_weight + weights.bco_weight + weights.sft_weight > 0,
        f"{stage}.preference.sigmoid_weight, bco_weight and sft_weight are 0: nothing would train; give one a weight",
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: what `python -m sage_jax.main --config FILE` does.

    Attributes:
      run_dir: Folder of everything the run writes.
      stages: Comma-separated stages, run in this order.
      seed: Seed of weights, data order and generator.
      start_from: Run folder whose last trained model training goes on from, instead of from nothing: it stands in for
        stage `base`, with its sizes, tokenizer and prompts. The folder of an exported model or of a released checkpoint
        is taken as `model.weights`. "" = none.
      data: Data set and input.
      text: Tokenizer, template and lengths.
      model: Sizes and attention.
      mesh: Devices.
      base, plain, sfe, base_dpo, dpo, edpo: Training stages; `base_dpo` is DPO alone, from the base model.
      learn: Training on corrections.
      facts: Facts that a model writes about each image.
      evaluate: Evaluation of trained stages.
      judge: Judgement of the answers by language models.
      inspect: Inspection of a user's images.
      serve: The HTTP service.
      watch: Inspection of a folder's new images as they come.
      review: The page where people correct inspections.
      calibrate: Choice of the threshold.
      benchmark: Public question sets.
      export: Export of a trained stage.
      rows: The data set as files of other trainers.
      ablate: Ablation over seeds.
      plan: Memory and arithmetic on paper.
    """

    run_dir: str = "runs/quickstart"
    stages: str = "prepare,base,sfe,edpo,evaluate,inspect"
    seed: int = 0
    start_from: str = ""
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    base: TrainConfig = TrainConfig(freeze=("fusion/", "fact_encoder/"), questions="description", similarity_weight=1.0)
    plain: TrainConfig = TrainConfig(facts="text")
    sfe: TrainConfig = TrainConfig()
    base_dpo: TrainConfig = TrainConfig(
        answers="ranked",
        freeze=("vit/", "fusion/", "fact_encoder/"),
        preference=PreferenceConfig(eta=0.0, lambda_hard=0.0),
    )
    dpo: TrainConfig = TrainConfig(
        answers="ranked",
        freeze=("vit/", "fusion/", "fact_encoder/"),
        preference=PreferenceConfig(eta=0.0, lambda_hard=0.0),
    )
    edpo: TrainConfig = TrainConfig(answers="ranked", freeze=("vit/", "fusion/", "fact_encoder/"))
    learn: LearnConfig = LearnConfig()
    facts: FactsConfig = FactsConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    judge: JudgeConfig = JudgeConfig()
    inspect: InspectConfig = InspectConfig()
    serve: ServeConfig = ServeConfig()
    watch: WatchConfig = WatchConfig()
    review: ReviewConfig = ReviewConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    export: ExportConfig = ExportConfig()
    rows: RowsConfig = RowsConfig()
    ablate: AblateConfig = AblateConfig()
    plan: PlanConfig = PlanConfig()

    def __post_init__(self) -> None:
        require(bool(self.stage_names), f"stages is empty: name some of {', '.join(STAGES)}")
        require_known("stages", self.stage_names, STAGES, "stage")
        for stage in ("serve", "watch"):
            require(
                stage not in self.stage_names or self.stage_names == (stage,),
                f"stages = {self.stages!r}: {stage!r} runs until it is stopped: give stages = {stage!r} alone",
            )
        require(
            "watch" not in self.stage_names or bool(self.watch.folder),
            "watch.folder is empty: name the folder to watch",
        )
        require_seed("seed", self.seed)
        require(
            not (self.start_from and self.model.weights and self.start_from != self.model.weights),
            f"start_from = {self.start_from!r} and model.weights = {self.model.weights!r}: give one of the two",
        )
        require(
            self.evaluate.decoding.method != "checkpoint" or bool(self.model.weights),
            "evaluate.decoding.method = 'checkpoint' needs one: name it in model.weights, or set greedy or sample",
        )
        require(
            self.model.fusion.head == "comparison" or not self.inspect.questions or self.inspect.ask == "together",
            "inspect.questions: questions asked in turn do not pass the question head of model.fusion.head = 'all'; "
            "set inspect.ask to 'together', or train with 'comparison'",
        )
        weight = self.evaluate.decoding.map_places
        require(
            self.data.language == "en" or not weight,
            f"evaluate.decoding.map_places = {weight}: it chooses between English words of places; set it to 0 with "
            f"data.language = {self.data.language!r}",
        )
        require(bool(self.run_dir), "run_dir is empty: name the folder that the run writes")
        rank = self.base.lora.rank
        require(rank == 0, f"base.lora.rank = {rank}: base models are trained from scratch; set it for a later stage")
        for stage in TRAINING_STAGES:
            every = self.training(stage).eval_every
            require(
                not every or self.data.validation_fraction > 0,
                f"{stage}.eval_every = {every}, but data.validation_fraction is 0: give the share of training images "
                "to validate on, such as 0.05, or set eval_every to 0",
            )
        for stage in TRAINING_STAGES:
            train = self.training(stage)
            require(
                not train.data_root or (train.data_source or self.data.source) != "generator",
                f"{stage}.data_root = {train.data_root!r}: data.source = 'generator' reads no files; set the "
                f"source, or {stage}.data_source",
            )
        for stage in TRAINING_STAGES.values():
            if stage.objective == "preference":
                _require_preferences(stage.name, self.training(stage.name))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages, in order."""
        return tuple(name.strip() for name in self.stages.split(",") if name.strip())

    @property
    def num_references(self) -> int:
        """Most references of an image that is inspected."""
        return self.inspect.num_references or self.data.num_references

    def data_of(self, stage: str) -> DataConfig:
        """The data that a stage reads: those of `data`, or for a training stage with `data_root` its own."""
        train = self.training(stage) if stage in TRAINING_STAGES else None
        if train is None or not train.data_root:
            return self.data
        source = train.data_source or self.data.source
        own = {"source": source, "root": train.data_root, "images_root": train.data_images_root}
        return dataclasses.replace(self.data, **own, held_out=(), test_fraction=0.0)

    def training(self, stage: str) -> TrainConfig:
        """The config of a training stage."""
        return getattr(self, TRAINING_STAGES[stage].name)
