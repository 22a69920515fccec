"""What the training stages minimise: next-token loss (base, SFE) and preference loss (DPO, E-DPO) on tree batches."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float, Int
from sage_jax.batch import TreeBatch
from sage_jax.config import TRAINING_STAGES, PreferenceConfig, TrainConfig
from sage_jax.losses.edpo import answer_entropy, preference_terms, trained_groups
from sage_jax.losses.log_probs import answer_logps, answer_token_logps
from sage_jax.losses.sft import hardest_tokens, most_anomalous_tokens, naming_loss, next_token_loss, similarity_loss
from sage_jax.models.sage import ImageEmbeddings, Sage

NUM_HARDEST = 2
"""Good tokens of each row that the dense similarity loss counts once more."""

NUM_NAMED = 8
"""Image tokens of each row, at most, that the naming loss counts."""

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def token_logps_of(
    model: Sage, batch: TreeBatch, hidden: Float[Array, "B S D"]
) -> tuple[Float[Array, "B Q N L"], Bool[Array, "B Q N L"]]:
    """Log-probability of each answer token, and whether it is the likeliest, from a tree's hidden states."""
    return answer_token_logps(
        hidden,
        batch.source_index,
        batch.target_ids,
        batch.target_mask,
        model.decoder.logits,
        vocab_size=model.decoder.vocab_size,
        target_slots=batch.target_slots,
    )


def token_weights(batch: TreeBatch, claim_weight: float) -> Float[Array, "B Q N L"]:
    """Weight of each answer token in the next-token loss; 0 at padding."""
    return jnp.where(batch.target_mask, jnp.where(batch.claim_mask, claim_weight, 1.0), 0.0)


@dataclasses.dataclass(frozen=True)
class SftObjective:
    """Mean next-token loss over answer tokens; with `similarity_weight` and `naming_weight`, the dense losses.

    Tokens that carry what an answer claims weigh `claim_weight`.
    """

    similarity_weight: float = 0.0
    naming_weight: float = 0.0
    claim_weight: float = 1.0

    def normalizers(self, batch: TreeBatch) -> dict[str, jax.Array]:
        """Answer tokens; anomalous, good and hardest good image tokens of rows with a reference; tokens to name."""
        compared = jnp.broadcast_to(batch.reference_tile_mask.any(axis=1)[:, None], batch.token_labels.shape)
        _, anomalous, good = similarity_loss(jnp.zeros(batch.token_labels.shape), batch.token_labels, compared)
        hardest = jnp.minimum(jnp.sum(good, axis=1), NUM_HARDEST)
        weights = token_weights(batch, self.claim_weight)
        named = (_names_of_most_anomalous(batch)[1] >= 0).any(axis=-1)
        counts = {"tokens": weights, "anomalous": anomalous, "good": good, "hardest": hardest, "named": named}
        return {name: jnp.maximum(jnp.sum(count), 1).astype(jnp.float32) for name, count in counts.items()}

    def __call__(self, model: Sage, batch: TreeBatch, normalizers: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        """The micro-batch's summand, and `next_token_loss` and `token_accuracy` per token."""
        hidden, images = model(batch)
        each, is_top = token_logps_of(model, batch, hidden)
        summed = jnp.sum(next_token_loss(each, batch.target_mask))
        right = jnp.sum(is_top & batch.target_mask)
        tokens = jnp.sum(batch.target_mask).astype(jnp.float32)
        weighed = next_token_loss(each * token_weights(batch, self.claim_weight), batch.target_mask)
        loss = jnp.sum(weighed) / normalizers["tokens"]
        metrics = {"next_token_loss": (summed, tokens), "token_accuracy": (right.astype(jnp.float32), tokens)}
        if self.similarity_weight:
            for name, (part, count) in self._similarity_parts(batch, images).items():
                loss = loss + 0.5 * self.similarity_weight * part / normalizers[name]
                metrics[f"similarity_loss_{name}"] = (part, count)
        if self.naming_weight:
            tokens, names = _names_of_most_anomalous(batch)
            shown = jnp.take_along_axis(images.image, tokens[..., None], axis=1)
            each, right = naming_loss(model.decoder.logits(model.decoder.norm(shown)), names)
            count = jnp.sum((names >= 0).any(axis=-1)).astype(jnp.float32)
            loss = loss + self.naming_weight * jnp.sum(each) / normalizers["named"]
            metrics["naming_loss"] = (jnp.sum(each), count)
            metrics["naming_accuracy"] = (jnp.sum(right).astype(jnp.float32), count)
        return loss, metrics

    @staticmethod
    def _similarity_parts(batch: TreeBatch, images: ImageEmbeddings) -> Metrics:
        similarity = images.compared.similarity
        compared = jnp.broadcast_to(batch.reference_tile_mask.any(axis=1)[:, None], similarity.shape)
        each, anomalous, good = similarity_loss(similarity, batch.token_labels, compared)
        masks = {"anomalous": anomalous, "good": good}
        masks["hardest"] = hardest_tokens(similarity, good, count=NUM_HARDEST)
        return {
            name: (jnp.sum(jnp.where(mask, each, 0.0)), jnp.sum(mask).astype(jnp.float32))
            for name, mask in masks.items()
        }


def _names_of_most_anomalous(batch: TreeBatch) -> tuple[Int[Array, "B C"], Int[Array, "B C J"]]:
    """The image tokens that the naming loss counts, and the token ids of their names."""
    tokens = most_anomalous_tokens(batch.token_labels, batch.token_names, count=NUM_NAMED)
    return tokens, jnp.take_along_axis(batch.token_names, tokens[..., None], axis=1)


@dataclasses.dataclass(frozen=True)
class PreferenceObjective:
    """E-DPO (or, by its config, DPO) over the questions of a batch, with the release's further terms by weight."""

    config: PreferenceConfig
    claim_weight: float = 1.0

    def normalizers(self, batch: TreeBatch) -> dict[str, jax.Array]:
        """Questions that train a pair, and tokens of best answers."""
        groups = jnp.sum(
            trained_groups(self._groups(batch.scores), self._groups(batch.answer_mask), config=self.config)
        )
        tokens = jnp.sum(token_weights(batch, self.claim_weight)[:, :, 0])
        return {
            "groups": jnp.maximum(groups, 1).astype(jnp.float32),
            "tokens": jnp.maximum(tokens, 1).astype(jnp.float32),
        }

    def __call__(self, model: Sage, batch: TreeBatch, normalizers: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        """The micro-batch's summand, and the statistics that tell whether preferences are learnt."""
        hidden, _ = model(batch)
        each, _ = token_logps_of(model, batch, hidden)
        policy = self._groups(answer_logps(each, batch.target_mask))
        reference, mask = self._groups(batch.reference_logps), self._groups(batch.answer_mask)
        scores = self._groups(batch.scores)
        terms = preference_terms(policy, reference, scores, mask, config=self.config)
        pair, bco = jnp.sum(terms.pair_loss), jnp.sum(terms.bco_loss)
        best = jnp.sum(next_token_loss(each[:, :, :1], batch.target_mask[:, :, :1]))
        loss = (self.config.sigmoid_weight * pair + self.config.bco_weight * bco) / normalizers["groups"]
        weighed = each[:, :, :1] * token_weights(batch, self.claim_weight)[:, :, :1]
        taught = jnp.sum(next_token_loss(weighed, batch.target_mask[:, :, :1]))
        loss = loss + self.config.sft_weight * taught / normalizers["tokens"]
        groups = jnp.sum(terms.group_mask).astype(jnp.float32)
        tokens = jnp.sum(batch.target_mask[:, :, 0]).astype(jnp.float32)
        entropy = answer_entropy(scores, mask, temperature=self.config.tau, reading=self.config.entropy)
        real = terms.group_mask
        last = jnp.take_along_axis(policy, terms.pairs.last[:, None], axis=1)[:, 0]
        adjacent = mask[:, :-1] & mask[:, 1:] & (scores[:, :-1] != scores[:, 1:])  # equal scores are no order

        def over(values: Float[Array, " G"]) -> tuple[jax.Array, jax.Array]:
            return jnp.sum(jnp.where(real, values, 0.0)), groups

        def over_adjacent(values: Float[Array, "G K"]) -> tuple[jax.Array, jax.Array]:
            return jnp.sum(jnp.where(adjacent, values, 0.0)), jnp.sum(adjacent).astype(jnp.float32)

        return loss, {
            "pair_loss": (pair, groups),
            "bco_loss": (bco, groups),
            "next_token_loss": (best, tokens),
            "reward_margin": over(terms.margin),
            "reward_accuracy": over((terms.margin > 0).astype(jnp.float32)),
            "ranking_best_worst": over((policy[:, 0] > last).astype(jnp.float32)),
            "ranking_adjacent": over_adjacent((policy[:, :-1] > policy[:, 1:]).astype(jnp.float32)),
            "chosen_logps": over(policy[:, 0]),
            "rejected_logps": over(last),
            "extreme_gap": over(terms.pairs.extreme_gap),
            "adjacent_gap": over(jnp.sum(terms.pairs.adjacent_weights * terms.pairs.adjacent_gaps, axis=1)),
            "entropy_best": over(entropy[:, 0]),
            "entropy_mean": (jnp.sum(entropy * mask), jnp.sum(mask).astype(jnp.float32)),
        }

    @staticmethod
    def _groups(values: Array) -> Array:
        """Questions of all images as groups: B Q N -> B*Q N."""
        return values.reshape(-1, values.shape[-1])


def stage_objective(stage: str, train: TrainConfig) -> SftObjective | PreferenceObjective:
    """What a training stage minimises."""
    if TRAINING_STAGES[stage].objective == "preference":
        return PreferenceObjective(train.preference, train.claim_weight)
    return SftObjective(train.similarity_weight, train.naming_weight, train.claim_weight)
