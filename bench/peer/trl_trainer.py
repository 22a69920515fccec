"""Steps of TRL's own DPOTrainer on prompts that are token ids already.

TRL wants a processor only to find a pad token and to decide that the model takes images. It leaves a data set with a
column `image`, here an index, untokenized; the collator then gives what DataCollatorForVisionPreference would: ids,
masks and pixels.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, PrinterCallback, ProcessorMixin, TrainerCallback

from bench.peer.batches import collate
from bench.peer.clock import Clock
from bench.peer.model import LEARNING_RATE, MAX_GRAD_NORM
from bench.peer.sizes import BOS, EOS, IMAGE, PAD, PAIRS, Groups


class IdsOnly(ProcessorMixin):
    """A processor that has a tokenizer and nothing to process."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.chat_template = tokenizer, None

    def save_pretrained(self, *_: Any, **__: Any) -> list[str]:
        """Writes no file."""
        return []


class Ticks(TrainerCallback):
    """A clock that starts with the training and ticks at the end of each step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock."""
        self._clock.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Ticks."""
        self._clock.tick()


def measure_trl(
    policy: Any, reference: Any, data: list[Groups], options: argparse.Namespace, *, beta: float
) -> tuple[Clock, list[float], float, int]:
    """A step of the trainer on each batch: clock, losses, tokens and tiles a step, as in `bench.peer.dpo.Steps`."""
    # Named at run time: TRL and datasets are in requirements-peer.txt alone, and types are checked without them.
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    examples = [example for each in data for example in each.pairs()]
    columns = ("prompt", "chosen", "rejected")
    rows = [{**{name: each[name] for name in columns}, "image": number} for number, each in enumerate(examples)]
    clock, losses, seen = Clock(options.device, start=False), [], []

    def collator(drawn: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate([examples[row["image"]] for row in drawn])
        batch["pixel_values"] = batch["pixel_values"].to(getattr(torch, options.dtype))
        seen.append((batch["input_ids"].numel(), len(batch["pixel_values"])))
        return batch

    class Trainer(trl.DPOTrainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # the data keep their order

        def compute_loss(self, *args: Any, **named: Any) -> Any:
            loss = super().compute_loss(*args, **named)
            losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))
            return loss

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=policy,
            ref_model=reference,
            args=_config(trl, folder, options, steps=len(data), beta=beta),
            train_dataset=datasets.Dataset.from_list(rows),
            data_collator=collator,
            processing_class=IdsOnly(_tokenizer()),
            callbacks=[Ticks(clock)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    used = seen[options.warmup : len(data)]
    return clock, losses, 2 * statistics.mean(tokens for tokens, _ in used), 2 * used[0][1]


def _config(trl: Any, folder: str, options: argparse.Namespace, *, steps: int, beta: float) -> Any:
    """The trainer's settings: constant rate, no decay, nothing written."""
    return trl.DPOConfig(
        folder,
        use_cpu=options.device == "cpu",
        bf16=False,
        fp16=False,
        gradient_checkpointing=options.gradient_checkpointing,
        per_device_train_batch_size=options.questions * len(PAIRS),
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        beta=beta,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        max_length=None,
        loss_type=["sigmoid"],
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        weight_decay=0.0,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, "<image>": IMAGE}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
