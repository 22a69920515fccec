"""The peer of bench/inspect_folder.py: transformers asked the same questions of the same files, by the same weights.

    python -m bench.peer.inspect_folder --size small --images 16 --rows 8 --questions 5 --work FOLDER

FOLDER is the one of bench/inspect_folder.py and is made here too where it is missing: the folder `export` in it, which
the project's own export has written, is loaded with its tokenizer, processor and chat template. Each question is a
prompt of its own with its image, `--rows` of them at once, padded on the left; answers have the size's tokens, none
ends earlier. A file is read and tiled for each batch that it is in, once where several of its questions are in one.

This side only answers: no score, no map, no comparison with a reference, no file is written. Its seconds are those of
loading, reading and answering; importing torch and transformers is in `process_seconds` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from bench.inspect_folder import asked, prepare
from bench.peer.allocator import restart_with_kept_memory
from bench.peer.clock import Clock
from bench.sizes import SIZES


def main() -> None:
    """Measures and prints one line of JSON."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--work", type=Path, required=True)
    found.add_argument("--size", choices=["tiny", "small"], default="tiny")
    found.add_argument("--images", type=int, default=32)
    found.add_argument("--rows", type=int, default=8, help="prompts at once")
    found.add_argument("--questions", type=int, default=5)
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--warmup", type=int, default=1)
    found.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = found.parse_args()
    work = options.work.expanduser().resolve() / options.size
    files = sorted(prepare(options.size, work, options.images).iterdir())
    new_tokens = SIZES[options.size].new_tokens
    start = time.perf_counter()
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    importing = time.perf_counter() - start
    clock, seen = Clock(), {}
    for _ in range(options.warmup + options.repeats):
        seen = inspect(torch, work / "export", files, asked(options.questions), options.rows, new_tokens)
        clock.tick()
    summary = clock.summary(skip=options.warmup)
    about = {"peer": "transformers", "torch": torch.__version__, "transformers": transformers.__version__}
    about |= {"what": "inspect", "size": options.size, "threads": options.threads, "rows": options.rows}
    rates = {
        "process_seconds": round(importing + summary["seconds"], 3),
        "images_per_s": round(options.images / summary["seconds"], 4),
        "process_images_per_s": round(options.images / (importing + summary["seconds"]), 4),
        "images_per_cpu_s": round(options.images / summary["cpu_seconds"], 4),
    }
    asked_of = {"images": options.images, "questions": options.questions, "new_tokens": new_tokens}
    print(json.dumps({**about, **asked_of, **seen, **summary, **rates, "peak_memory_gb": clock.peak_memory_gb()}))


def inspect(
    torch: Any, export: Path, files: list[Path], questions: tuple[str, ...], batch: int, new_tokens: int
) -> dict[str, int]:
    """Loads the model and asks each question of each file; tokens of all answers, tiles and characters."""
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(export, dtype=torch.float32).eval()
    processor, stops = load_processor(export), model.generation_config.eos_token_id
    # From the folder they would end an answer; without them nothing does, and the random weights close few.
    model.generation_config.eos_token_id = None
    prompts = [(file, question) for file in files for question in questions]
    answers, tiles = [], 0
    for start in range(0, len(prompts), batch):
        inputs = read_prompts(processor, prompts[start : start + batch])
        tiles += len(inputs["pixel_values"])
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        answers += ids[:, inputs["input_ids"].shape[1] :].tolist()
    texts = processor.batch_decode(answers, skip_special_tokens=True)
    closed = sum(any(stop in answer for stop in stops) for answer in answers)
    assert len(texts) == len(prompts) and all(len(answer) == new_tokens for answer in answers)
    return {"answer_tokens": sum(map(len, answers)), "answers_with_an_end": closed, "vit_tiles": tiles}


def read_prompts(processor: Any, prompts: list[tuple[Path, str]]) -> Any:
    """Inputs of the model for images and their questions."""
    from PIL import Image

    pictures = {file: Image.open(file).convert("RGB") for file in dict.fromkeys(file for file, _ in prompts)}
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        for _, question in prompts
    ]
    return processor(
        images=[pictures[file] for file, _ in prompts],
        text=texts,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


def load_processor(export: Path) -> Any:
    """The folder's processor; without its reader of videos, which needs torchvision and has nothing to do here."""
    from transformers import AutoTokenizer
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl.processing_internvl import InternVLProcessor

    class WithoutVideos(InternVLProcessor):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
            return type(argument)

    length = json.loads((export / "processor_config.json").read_text(encoding="utf-8"))["image_seq_length"]
    template = (export / "chat_template.jinja").read_text(encoding="utf-8")
    images: Any = GotOcr2ImageProcessorPil.from_pretrained(export)
    tokenizer: Any = AutoTokenizer.from_pretrained(export)
    return WithoutVideos(images, tokenizer, None, image_seq_length=length, chat_template=template)


if __name__ == "__main__":
    restart_with_kept_memory()
    main()
