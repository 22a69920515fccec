"""Messages: every field has its unit or meaning, and unknown ones are errors."""

from __future__ import annotations

import pydantic
import pytest

from sage_jax.serving import wire
from sage_jax.serving.wire import Answer, FaultBody, InspectBody, Strict


def test_every_message_has_a_docstring_and_every_field_of_a_request_a_meaning() -> None:
    classes = [each for each in vars(wire).values() if isinstance(each, type) and issubclass(each, pydantic.BaseModel)]
    ours = [each for each in classes if each.__module__ == wire.__name__]
    assert len(ours) > 8 and all(each.__doc__ for each in ours)
    assert all(field.description for field in InspectBody.model_fields.values())
    assert all(each.model_config.get("extra") == "forbid" for each in ours if issubclass(each, Strict))


def test_a_request_is_an_image_and_nothing_else_is_needed() -> None:
    body = InspectBody.model_validate({"image": "aGk="})
    assert (body.references, body.questions, body.map, body.name) == (None, None, "none", "image")
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        InspectBody.model_validate({"image": "aGk=", "catgory": "nut"})


def test_an_error_has_one_form() -> None:
    assert FaultBody.model_json_schema()["required"] == ["error"]
    assert Answer(question="?", answer="!").model_dump() == {"question": "?", "answer": "!"}
