"""OpenGVLab's modelling code, which an export in their layout needs beside it and which is theirs to hand out.

config.json names it as their checkpoints do (`auto_map`). vLLM and LMDeploy too read their config through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sage_jax.hf.config_fields import TextModel

AUTO_MAP: Final = {
    "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
    "AutoModel": "modeling_internvl_chat.InternVLChatModel",
    "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel",
}
"""As each of their checkpoints has it."""

_FILES: Final = (
    "configuration_intern_vit.py",
    "configuration_internvl_chat.py",
    "conversation.py",
    "modeling_intern_vit.py",
    "modeling_internvl_chat.py",
)
_OF_INTERNLM2: Final = ("configuration_internlm2.py", "modeling_internlm2.py")

_REPOSITORIES: Final[dict[TextModel, str]] = {
    "internlm2": "OpenGVLab/InternVL2_5-8B",
    "qwen2": "OpenGVLab/InternVL3-1B",
    "llama": "OpenGVLab/InternVL3-1B",
    "qwen3": "OpenGVLab/InternVL3_5-1B",
}
"""Where the code takes this decoder, and knows every conversation of data/trees/conversations.py."""


def code_files(text_model: TextModel) -> Sequence[str]:
    """The Python files that the folder needs."""
    return (*_FILES, *(_OF_INTERNLM2 if text_model == "internlm2" else ()))


def code_repository(text_model: TextModel) -> str:
    """A repository on the hub that has them."""
    return _REPOSITORIES[text_model]


def copy_command(text_model: TextModel, folder: str) -> str:
    """The command that brings them into a folder."""
    return f'hf download {code_repository(text_model)} --include "*.py" --local-dir {folder}'
