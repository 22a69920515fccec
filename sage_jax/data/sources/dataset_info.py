"""LLaMA-Factory's dataset_info.json: which files hold rows, and what their columns and roles are called there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from sage_jax.data.sources.items import BadItem, json_kind, text_of

NAME: Final = "dataset_info.json"
_PLACES: Final = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_READ_AS: Final = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
_ALPACA: Final = ("prompt", "query", "response", "history")
_SHAREGPT: Final = ("messages",)
_OF_BOTH: Final = ("system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag")
_OF_TURNS: Final = ("conversations", "chosen", "rejected")
_TAGS: Final = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of a set's columns and roles.

    Attributes:
      names: Name here by the column's own; columns that are not among them are not read, as in LLaMA-Factory.
      tags: What the set calls sender, text and the three roles, by LLaMA-Factory's name for each.
    """

    names: Mapping[str, str]
    tags: Mapping[str, str]

    def renamed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A row under the names of LLaMA-Factory's defaults."""
        row = {here: fields[column] for column, here in self.names.items() if column in fields}
        return {key: self._turns(value) if key in _OF_TURNS else value for key, value in row.items()}

    def _turns(self, given: Any) -> Any:
        """Messages with senders and roles under their default names; what is no message stays as it is."""
        if isinstance(given, list):
            return [self._turns(each) for each in given]
        if not isinstance(given, dict) or self.tags["role_tag"] not in given:
            return given
        roles = {self.tags[tag]: _TAGS[tag] for tag in ("user_tag", "assistant_tag", "system_tag")}
        sender = given[self.tags["role_tag"]]
        named = roles.get(sender, sender) if isinstance(sender, str) else sender
        return {"from": named, "value": given.get(self.tags["content_tag"])}


def is_info(content: object) -> bool:
    """Whether a JSON is such a listing: every entry says where its rows are."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(one, dict) and any(key in one for key in _PLACES) for one in content.values())
    )


def file_name(fields: Mapping[str, Any]) -> str:
    """The file of a set, relative to the listing's folder.

    Raises:
      BadItem: Its rows are no JSON file of this folder, or are drawn at random.
    """
    away = next((key for key in _PLACES if key != "file_name" and fields.get(key)), None)
    if away is not None:
        raise BadItem(f"{away} is not fetched", "download its rows, and give the file under file_name, or take it out")
    name = text_of(fields, "file_name")
    if PurePosixPath(name).suffix not in (".json", ".jsonl"):
        raise BadItem(f"file_name {name} is no .json or .jsonl", "save the rows as JSON lines")
    if fields.get("num_samples") is not None:
        raise BadItem("num_samples draws rows at random", "leave it out, and set data.num_train")
    return name


def columns_of(fields: Mapping[str, Any]) -> Columns:
    """How a set's rows are renamed.

    Raises:
      BadItem: `formatting` is another, or no column is named for images.
    """
    formatting = fields.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise BadItem(f"formatting is {formatting!r}", "give alpaca or sharegpt")
    own = _ALPACA if formatting == "alpaca" else _SHAREGPT
    columns, tags = (_names(fields, key) for key in ("columns", "tags"))
    if not columns.get("images"):
        raise BadItem("columns has no images, so its rows show none", 'add "images": the column of their paths')
    dropped = ("response",) if fields.get("ranking") else ("chosen", "rejected")
    names = {
        column: _READ_AS.get(key, key)
        for key, column in columns.items()
        if key in (*own, *_OF_BOTH) and key not in dropped
    }
    return Columns(names, {**_TAGS, **tags})


def _names(fields: Mapping[str, Any], key: str) -> dict[str, str]:
    given = fields.get(key) or {}
    if not isinstance(given, dict):
        raise BadItem(f"{key} is {json_kind(given)}", "make it an object of names")
    return {name: text_of(given, name, f"{key}: ") for name, value in given.items() if value is not None}
