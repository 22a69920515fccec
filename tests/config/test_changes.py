"""Changes between two configs are values with path, old and new."""

from __future__ import annotations

import json

from sage_jax.config import ConfigChange, config_changes


def test_config_changes_name_each_field_once_with_old_and_new():
    old = {"seed": 0, "sfe": {"steps": 10, "freeze": ["vit/"]}, "gone": True}
    new = {"seed": 0, "sfe": {"steps": 12, "freeze": ["vit/", "fusion/"]}, "added": {"deep": 1}}
    changes = config_changes(json.dumps(old), json.dumps(new))
    assert [str(change) for change in changes] == [
        "sfe.steps: 10 -> 12",
        "sfe.freeze: ['vit/'] -> ['vit/', 'fusion/']",
        "added.deep: (none) -> 1",
        "gone: True -> (none)",
    ]
    assert config_changes(json.dumps(old), json.dumps(old)) == []
    assert changes[0] == ConfigChange("sfe.steps", 10, 12)
    assert [change.section for change in changes] == ["sfe", "sfe", "added", "gone"]
