"""The documentation site: `python -m sphinx docs site` builds it, `.ci/test` does so with warnings as errors.

Pages load nothing from a network: no web fonts, equations as MathML, search in the page.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "extensions")]

project = "sage_jax"
copyright = "the authors of sage_jax, Apache-2.0"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "config_fields",
    "equations",
    "plain_docstrings",
]
exclude_patterns = ["extensions"]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options: dict[str, Any] = {"members": True}
napoleon_use_ivar = True
smartquotes = False
add_module_names = False
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = "sage_jax"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
