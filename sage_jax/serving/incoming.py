"""Bodies of requests, JSON or multipart, read into what the service is asked."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import pydantic
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request as HttpRequest

from sage_jax.data.records import Reference
from sage_jax.errors import plain
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.service import Request, Service
from sage_jax.serving.wire import InspectBody

Body = TypeVar("Body", bound=pydantic.BaseModel)

_DATA_URL: Final = re.compile(r"data:([\w.+/-]*)(?:;[\w=.+-]+)*;base64,")
_LISTS: Final = ("references", "questions")
_MOST_FIELDS: Final = 64
_SHOWN_ERRORS: Final = 3


def media_type(request: HttpRequest) -> str:
    """The content type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parsed(content: bytes, kind: type[Body]) -> Body:
    """A JSON body as a message of a kind.

    Raises:
      RequestFault: 400, it is no JSON; 422, it is none of that kind, with what is wrong where.
    """
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        raise RequestFault(400, "the body is no JSON") from None
    return _validated(given, kind)


def _validated(given: Any, kind: type[Body]) -> Body:
    try:
        return kind.model_validate(given)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        lines = [f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in faults[:_SHOWN_ERRORS]]
        more = f"; and {len(faults) - _SHOWN_ERRORS} more" if len(faults) > _SHOWN_ERRORS else ""
        raise RequestFault(422, plain("; ".join(lines) + more)) from None


def decoded(text: str, field: str) -> bytes:
    """The bytes of a field in base64, or of a data URL; no other address is ever opened.

    Raises:
      RequestFault: 422, it is neither.
    """
    match = _DATA_URL.match(text)
    if match is None and re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*:", text):
        scheme = text.lstrip().partition(":")[0][:16]
        raise RequestFault(
            422, f"{field}: an address ({scheme}:) is not opened: send the image itself, as base64 or a data URL"
        )
    try:
        return base64.b64decode(text[match.end() :] if match else text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestFault(422, f"{field}: no base64") from None


async def inspect_form(request: HttpRequest) -> tuple[InspectBody, bytes, list[bytes]]:
    """The fields, the image and the references of a multipart body.

    Raises:
      HTTPException: 400, it is no such body.
      RequestFault: 422, a field is missing or wrong.
    """
    form = await request.form(max_files=_MOST_FIELDS, max_fields=_MOST_FIELDS)
    try:
        images = await _files(form, "image")
        if len(images) != 1:
            raise RequestFault(422, f"image: {len(images)} files: send one")
        references = await _files(form, "reference_images")
        fields: dict[str, Any] = {"image": ""}
        first = form["image"]
        if isinstance(first, UploadFile) and first.filename:
            fields["name"] = first.filename[-255:]
        for name in form:
            values = form.getlist(name)
            if name in ("image", "reference_images"):
                continue
            if not all(isinstance(value, str) for value in values):
                raise RequestFault(422, f"{name}: a file: send text")
            if name not in _LISTS and len(values) > 1:
                raise RequestFault(422, f"{name}: given {len(values)} times: send one")
            # A field that is there and empty is how a form says an empty list.
            fields[name] = [value for value in values if value] if name in _LISTS else values[0]
        return _validated(fields, InspectBody), images[0], references
    finally:
        await form.close()


async def _files(form: FormData, name: str) -> list[bytes]:
    found = []
    for value in form.getlist(name):
        if not isinstance(value, UploadFile):
            raise RequestFault(422, f"{name}: a text field: send a file (curl: -F {name}=@FILE)")
        found.append(await value.read())
    return found


def service_request(
    body: InspectBody, service: Service, image: bytes | None = None, references: Sequence[bytes] = ()
) -> Request:
    """What the service is asked.

    Args:
      image, references: Files that came beside the body; None and none = they are in the body.

    Raises:
      RequestFault: 422, an image is no base64, or a reference has no such name.
    """
    content = decoded(body.image, "image") if image is None else image
    brought = [*references, *(decoded(one, "reference_images") for one in body.reference_images)]
    return Request(
        image=content,
        name=safe_name(body.name),
        category=body.category,
        references=gathered(body.references, brought, service),
        questions=None if body.questions is None else tuple(body.questions),
    )


def safe_name(name: str) -> str:
    """A file name without folders and control characters; it is compared with names, and opens nothing."""
    return re.sub(r"[\\/\x00-\x1f\x7f]", "_", name) or "image"


def gathered(names: Sequence[str] | None, brought: Sequence[bytes], service: Service) -> tuple[Reference, ...] | None:
    """References by name and those that were brought along; None where neither was given.

    Raises:
      RequestFault: 422, there is none of a name.
    """
    if names is None and not brought:
        return None
    most = service.options.max_references
    found = [reference for name in names or () for reference in service.references.named(name, most)]
    return (*found, *(Reference(content, f"upload {number}") for number, content in enumerate(brought, start=1)))
