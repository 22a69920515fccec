"""The difference between two configs, field by field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class ConfigChange:
    """A field that differs between two configs; `str` gives `sfe.steps: 100 -> 200`.

    Attributes:
      path: The field, sections before it.
      old, new: Its values; "(none)" in a config without the field.
    """

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.old} -> {self.new}"

    @property
    def section(self) -> str:
        """The part of the path before the first dot."""
        return self.path.partition(".")[0]


def config_changes(old_json: str, new_json: str) -> list[ConfigChange]:
    """Fields that differ between two configs in JSON, in the order of the new one."""
    old, new = (dict(_fields(json.loads(text))) for text in (old_json, new_json))
    missing = "(none)"
    changes = (
        ConfigChange(path, old.get(path, missing), new.get(path, missing)) for path in dict.fromkeys((*new, *old))
    )
    return [change for change in changes if change.old != change.new]


def _fields(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each field that has no fields of its own, by its path."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
