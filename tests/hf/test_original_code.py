"""What an export in OpenGVLab's layout names of their code is there once the files it lists are."""

from __future__ import annotations

import pytest

from sage_jax.hf.config_fields import TEXT_MODELS, TextModel
from sage_jax.hf.original_code import AUTO_MAP, code_files, code_repository, copy_command


@pytest.mark.parametrize("text_model", TEXT_MODELS["internvl_chat"])
def test_every_module_that_the_config_names_is_among_the_files(text_model: TextModel) -> None:
    files = code_files(text_model)
    assert {f"{name.split('.')[0]}.py" for name in AUTO_MAP.values()} <= set(files)
    assert ("modeling_internlm2.py" in files) == (text_model == "internlm2")
    command = copy_command(text_model, "exported")
    assert command == f'hf download {code_repository(text_model)} --include "*.py" --local-dir exported'


def test_the_config_names_code_of_the_folder_alone() -> None:
    assert not [name for name in AUTO_MAP.values() if "--" in name]  # `repository--module` is fetched without asking
