"""The part of OpenAI's protocol that is served, held against the client's own types."""

from __future__ import annotations

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sage_jax.serving.chat_wire import ChatAnswer, ChatChunk, ModelCard


def test_answers_have_every_field_that_the_client_needs() -> None:
    for ours, theirs in ((ChatAnswer, ChatCompletion), (ChatChunk, ChatCompletionChunk)):
        needed = {name for name, field in theirs.model_fields.items() if field.is_required()}
        assert needed and needed <= set(ours.model_fields), ours
    assert {"id", "object", "created", "owned_by"} <= set(ModelCard.model_fields)
