# SPDX-License-Identifier: Apache-2.0
"""SAGE in torch: transformers' InternVL, and beside it what makes comparison embeddings of a reference and of facts.

model = AutoModel.from_pretrained(folder, trust_remote_code=True)
answer = model.answer(image, "Is there a defect?", facts=["..."], reference=good_image)
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GenerationConfig, GenerationMixin, InternVLConfig, InternVLForConditionalGeneration
from transformers.models.internvl.modeling_internvl import InternVLPreTrainedModel
from transformers.utils import cached_file

from .fusion_sage import Comparison, ConvStem, FactEncoder, FactFusion, compare, fact_means
from .processing_sage import SageExample, SageProcessor

OWN_FILE = "sage_fusion.safetensors"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


@dataclasses.dataclass(frozen=True)
class SageAnswer:
    """An answer.

    Attributes:
      text: Verdict and reason.
      verdict_score: P(yes) / (P(yes) + P(no)) at the answer's first token, 0..1: of "Is there a defect?" the anomaly
        score.
      similarity: Of each image token to the reference [M], -1..1; None without one.
      anomaly_map: Where the picture is unlike the reference, float32 [height, width]; None without one.
    """

    text: str
    verdict_score: float
    similarity: np.ndarray | None
    anomaly_map: np.ndarray | None


class SageModel(InternVLPreTrainedModel, GenerationMixin):
    """The plain model, and SAGE's fusion beside it.

    Attributes:
      plain: transformers' InternVL.
      fusion: Makes comparison embeddings.
      fact_encoder: Text encoder of the facts; None where it is the plain model's decoder, unchanged.
      processor: Makes inputs; there after `from_pretrained`.
    """

    def __init__(self, config: InternVLConfig, plain: InternVLForConditionalGeneration | None = None) -> None:
        super().__init__(config)
        settings, width = config.sage, config.text_config.hidden_size
        self.plain = InternVLForConditionalGeneration(config) if plain is None else plain
        self.fusion = FactFusion(settings["fusion"], width, settings["tokens_per_side"] ** 2)
        self.fact_encoder: nn.Module | None = None
        if settings["own_fact_encoder"]:
            sizes, kind = settings["text_encoder"], settings["fusion"]["fact_encoder"]
            self.fact_encoder = FactEncoder(kind, sizes, config.text_config.vocab_size)
        self.processor: SageProcessor | None = None
        if settings["stem"]["kind"] == "conv":
            self.vit = nn.Module()
            self.vit.stem = ConvStem(settings["stem"]["width"], settings["stem"]["patch_px"])
            embeddings = self.plain.model.vision_tower.embeddings.patch_embeddings
            embeddings.register_forward_hook(self._add_stem)
        self.post_init()

    def _add_stem(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], patches: torch.Tensor) -> torch.Tensor:
        """Patch embeddings with what the stem sees of the same tiles."""
        return patches + self.vit.stem(inputs[0].to(patches.dtype))

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> SageModel:
        """The model of a folder or repository: plain weights by transformers, SAGE's own from the file beside them."""
        found = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        if kwargs.pop("output_loading_info", False):
            raise ValueError(
                "output_loading_info: SAGE gives none, transformers' InternVLForConditionalGeneration does"
            )
        plain = InternVLForConditionalGeneration.from_pretrained(path, *args, **kwargs)
        model = cls(plain.config, plain)
        own = load_file(cached_file(path, OWN_FILE, **found))
        wanted = {name for name in model.state_dict() if not name.startswith("plain.")}
        if wanted != set(own):
            raise ValueError(f"{OWN_FILE}: missing or without a place in the model: {sorted(wanted ^ set(own))}")
        model.load_state_dict(own, strict=False)
        for part in (model.fusion, model.fact_encoder, getattr(model, "vit", None)):
            if part is not None:
                part.to(device=plain.get_input_embeddings().weight.device, dtype=plain.dtype).requires_grad_(False)
        tokenizer = tokenizers.Tokenizer.from_file(cached_file(path, "tokenizer.json", **found))
        model.processor = SageProcessor(tokenizer, plain.config.sage)
        return model.eval()

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes the folder as it was exported: the plain model, SAGE's own weights, tokenizer and code beside it."""
        folder = Path(save_directory)
        self.plain.save_pretrained(folder, **kwargs)
        own = {name: values.contiguous() for name, values in self.state_dict().items() if name[:6] != "plain."}
        save_file(own, folder / OWN_FILE, {"format": "pt"})
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        code = Path(__file__)
        about["auto_map"] = {"AutoModel": f"{code.stem}.{type(self).__name__}"}
        (folder / "config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in (code.name, "fusion_sage.py", "processing_sage.py"):
            shutil.copyfile(code.parent / name, folder / name)
        if self.processor is not None:
            self.processor.tokenizer.save(str(folder / "tokenizer.json"))

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's token embedding."""
        return self.plain.get_input_embeddings()

    def image_tokens(self, pixel_values: torch.Tensor, num_tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens [B, M, D] of tiles [T, 3, H, W], rows one after the other, and the mask of real ones."""
        tokens = self.plain.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        counts = num_tiles.tolist()
        if sum(counts) != len(tokens):
            raise ValueError(f"{len(tokens)} tiles where the rows' counts make {sum(counts)}")
        rows = [part.flatten(0, 1) for part in tokens.split(counts)]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
        return padded, torch.arange(padded.shape[1], device=tokens.device) < lengths[:, None]

    def encode_facts(self, fact_ids: torch.Tensor, fact_mask: torch.Tensor) -> torch.Tensor:
        """Vectors [B, F, D] of facts [B, F, J]."""
        if self.fact_encoder is not None:
            return self.fact_encoder(fact_ids, fact_mask)
        embeddings = self.get_input_embeddings()(fact_ids)
        if self.config.sage["fusion"]["fact_encoder"] == "embedding_mean":
            return fact_means(embeddings, fact_mask)
        mask = fact_mask.flatten(0, 1)
        mask = mask | ~mask.any(dim=1, keepdim=True)  # a fact without a token would attend to nothing
        hidden = self.plain.model.language_model(
            inputs_embeds=embeddings.flatten(0, 1), attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
        return fact_means(hidden.unflatten(0, fact_ids.shape[:2]), fact_mask)

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        num_tiles: torch.Tensor,
        reference_pixel_values: torch.Tensor | None = None,
        num_reference_tiles: torch.Tensor | None = None,
        fact_ids: torch.Tensor | None = None,
        fact_mask: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Comparison]:
        """Decoder inputs [B, S, D], embeddings in place of their placeholders, and how the images compare.

        Args:
          input_ids: The prompt [B, S].
          pixel_values: Tiles of all rows' test images [T, 3, H, W].
          num_tiles: Tiles of each row [B].
          reference_pixel_values, num_reference_tiles: The same for the references; 0 tiles = none.
          fact_ids, fact_mask: Token ids of the facts [B, F, J], and True at real tokens.
          question_mask: True at the tokens of the question [B, S]; needed where the fusion has a head for them.

        Raises:
          ValueError: Placeholders and embeddings differ in number, or the question's mask is missing.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        test, test_mask = self.image_tokens(pixel_values, num_tiles)
        reference, reference_mask = torch.zeros_like(test), torch.zeros_like(test_mask)
        if reference_pixel_values is not None and num_reference_tiles is not None:
            reference, reference_mask = self.image_tokens(reference_pixel_values, num_reference_tiles)
        most = max(test.shape[1], reference.shape[1])
        test, reference = (nn.functional.pad(x, (0, 0, 0, most - x.shape[1])) for x in (test, reference))
        test_mask, reference_mask = (nn.functional.pad(x, (0, most - x.shape[1])) for x in (test_mask, reference_mask))
        options = self.config.sage["fusion"]
        compared = compare(
            test,
            reference,
            test_mask,
            reference_mask,
            num_distinct=options["num_distinct"],
            kind=options["similarity"],
        )
        comparison, image, image_mask = test.new_zeros((0, test.shape[2])), test, test_mask
        if fact_ids is not None and fact_mask is not None:
            facts = self.encode_facts(fact_ids, fact_mask)
            read, marked = self.fusion(facts, test, reference, compared, reference_mask.any(dim=1))
            image = torch.where(fact_mask.any(dim=2).any(dim=1)[:, None, None], marked, test)
            comparison = read[fact_mask.any(dim=2)]
        if self.config.sage["reference"] == "prompt":
            image, image_mask = torch.cat([image, reference], dim=1), torch.cat([test_mask, reference_mask], dim=1)
        if options["head"] == "all":
            if question_mask is None:
                raise ValueError("the model has a head for questions: give question_mask, as the processor makes it")
            image = self.fusion.image_head(image)
            asked = self.fusion.question_head(embeddings)
            embeddings = torch.where(question_mask[..., None], asked, embeddings)
        embeddings = _placed(embeddings, input_ids == self.config.image_token_id, image[image_mask], "image")
        here = input_ids == self.config.sage["comparison_id"]
        return _placed(embeddings, here, comparison, "comparison"), compared

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        num_tiles: torch.Tensor,
        reference_pixel_values: torch.Tensor | None = None,
        num_reference_tiles: torch.Tensor | None = None,
        fact_ids: torch.Tensor | None = None,
        fact_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """What transformers' InternVL gives for the prompt: `logits`, with `labels` also `loss`.

        Inputs: see `embed`.
        """
        embeddings, _ = self.embed(
            input_ids,
            pixel_values,
            num_tiles,
            reference_pixel_values,
            num_reference_tiles,
            fact_ids,
            fact_mask,
            question_mask,
        )
        if attention_mask is not None and "position_ids" not in kwargs:
            kwargs["position_ids"] = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return self.plain(inputs_embeds=embeddings, attention_mask=attention_mask, **kwargs)

    @torch.no_grad()
    def generate(self, inputs: dict[str, torch.Tensor] | None = None, **kwargs: Any) -> Any:
        """The new tokens, as transformers generates them; `inputs` as the processor makes them, or by name."""
        given = {**(inputs or {}), **kwargs}
        names = ("input_ids", "pixel_values", "num_tiles", "reference_pixel_values", "num_reference_tiles")
        prompt = {name: given.pop(name, None) for name in (*names, "fact_ids", "fact_mask", "question_mask")}
        embeddings, _ = self.embed(**prompt)
        return self.plain.generate(inputs_embeds=embeddings, **given)

    @torch.no_grad()
    def answer(
        self,
        image: Image.Image,
        question: str,
        facts: Sequence[str] = (),
        reference: Image.Image | None = None,
        max_new_tokens: int | None = None,
    ) -> SageAnswer:
        """The greedy answer to a question about a picture, judged alone or against a picture of a good part."""
        if self.processor is None:
            raise ValueError("the model has no tokenizer: load it with from_pretrained")
        settings = self.config.sage
        example = SageExample(image, question, facts, reference)
        inputs = {name: values.to(self.device) for name, values in self.processor(example).items()}
        attention_mask = inputs.pop("attention_mask")
        embeddings, compared = self.embed(**inputs)
        of_base = self.plain.generation_config
        # transformers fills up from this one what a call leaves open: the base's may search beams or forbid repetition
        self.plain.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens or settings["max_new_tokens"],
            do_sample=False,
            eos_token_id=settings["stop_ids"],
            pad_token_id=settings["pad_id"],
        )
        try:
            generated = self.plain.generate(
                inputs_embeds=embeddings,
                attention_mask=attention_mask,
                output_logits=True,
                return_dict_in_generate=True,
            )
        finally:
            self.plain.generation_config = of_base
        score = self.verdict_score(generated.logits[0])[0].item()
        text = self.processor.decode(generated.sequences[0].tolist())
        if reference is None:
            return SageAnswer(text, score, None, None)
        num_tokens = int(inputs["num_tiles"][0]) * settings["tokens_per_side"] ** 2
        similarity = compared.similarity[0, :num_tokens].float().cpu().numpy()
        return SageAnswer(text, score, similarity, self.processor.anomaly_map(image, similarity, reference))

    def verdict_score(self, logits: torch.Tensor) -> torch.Tensor:
        """P(yes) / (P(yes) + P(no)) of next-token logits [..., V] where an answer begins."""
        yes, no = (logits.float()[..., ids].logsumexp(dim=-1) for ids in self.config.sage["verdict_ids"])
        return torch.sigmoid(yes - no)


def _placed(embeddings: torch.Tensor, here: torch.Tensor, values: torch.Tensor, kind: str) -> torch.Tensor:
    """Embeddings [B, S, D] with values [N, D] at the N places where `here` [B, S] is True, in order."""
    if int(here.sum()) != len(values):
        raise ValueError(f"{int(here.sum())} {kind} placeholders for {len(values)} {kind} embeddings")
    return embeddings.masked_scatter(here[..., None], values.to(embeddings.dtype))
