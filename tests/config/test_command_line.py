"""The command line: overrides of every kind, and one clear line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.config import ConfigError
from sage_jax.config.command_line import read_config

CONFIG = str(Path(__file__).parents[1] / "support" / "tiny_config.py")
CONFIGS = Path(__file__).parents[2] / "configs"


def test_fields_of_every_kind_are_overridden() -> None:
    config = read_config(
        [
            f"--config={CONFIG}",
            "--config.seed=7",
            "--config.stages",
            "prepare,base",
            "--config.sfe.peak_learning_rate=1",
            "--config.model.vit.qk_norm",
            "--noconfig.model.vit.qkv_bias",
            "--config.data.held_out=('gear', 'pill')",
            "--config.ablate.seeds=(4,)",
            "--config.evaluate.stages=sfe",
            "--config.model.fusion.similarity=aligned",
            "--config.text.system=",
        ]
    )
    assert (config.seed, config.stage_names) == (7, ("prepare", "base"))
    assert (config.sfe.peak_learning_rate, type(config.sfe.peak_learning_rate)) == (1.0, float)
    assert (config.model.vit.qk_norm, config.model.vit.qkv_bias) == (True, False)
    assert (config.data.held_out, config.ablate.seeds, config.evaluate.stages) == (("gear", "pill"), (4,), ("sfe",))
    assert (config.model.fusion.similarity, config.text.system) == ("aligned", "")
    assert config.edpo == read_config(["--config", CONFIG]).edpo


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.sfe.stps=3", "--config.sfe.stps: no such field; did you mean --config.sfe.steps?"),
        ("--config.sfee.steps=3", "did you mean --config.sfe.steps?"),
        ("--config.stps=3", "--config.base.steps or --config.plain.steps or --config.sfe.steps"),
        ("--noconfig.model.vit.qk_nrm", "did you mean --config.model.vit.qk_norm?"),
        ("--config.zzz=1", "there are run_dir, stages, seed"),
        ("--config.mesh.qqq=1", "there are mesh.data, mesh.fsdp, mesh.tensor"),
        ("--config.sfe.steps.x=3", "sfe.steps has no fields of its own"),
        ("--config.seed=abc", "--config.seed=abc: wrong type; expected int, such as 0"),
        ("--config.sfe.steps=1.5", "--config.sfe.steps=1.5: wrong type; expected int, such as 20"),
        ("--config.sfe=3", "a section, set its fields"),
        ("--config.model.vit.qk_norm=maybe", "wrong type; expected bool"),
        ("--config.data.held_out=('a',", "wrong type; expected tuple"),
        ("--config.text.buckets=('a',)", "config.text.buckets[0] = 'a': expected int, got str"),
        ("--config.sfe.steps", "Missing value for flag --config.sfe.steps"),
        ("--config.sfe.accumulate=3", "config.sfe.accumulate = 3 does not divide batch_size = 4"),
        ("--conifg.seed=3", "conifg.seed"),
        ("base", "unexpected argument 'base'"),
    ],
)
def test_wrong_arguments_give_one_line_with_the_way_out(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_config(["--config", CONFIG, argument])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("arguments", [[], ["--config"], ["--config="], ["--config.seed=3"]])
def test_without_a_config_file_one_is_asked_for(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="there is no config file: give one"):
        read_config(arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 1 / 0\n", ":2: ZeroDivisionError: division by zero"),
        ("def get_config(:\n", ":1: SyntaxError"),
        ("import no_such_package\n", ":1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = 1\n", "needs a function get_config() that returns to_config_dict(Config(...))"),
        ("def get_config():\n    return 5\n", "needs a function get_config()"),
        (
            "from sage_jax.config import VitConfig\n\n\ndef get_config():\n    return VitConfig(patch_px=7)\n",
            ":5: patch_px = 7 does not divide tile_px = 64",
        ),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "experiment.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_config(["--config", str(file), "--config.seed=1"])
    assert str(raised.value).startswith(str(file))
    assert message in str(raised.value)


def test_a_config_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.py: there is no such file"):
        read_config(["--config", str(tmp_path / "nope.py")])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.name)
def test_every_config_of_the_project_is_read_as_the_program_reads_it(path: Path) -> None:
    config = read_config(["--config", str(path), "--config.seed=3"])
    assert config.seed == 3 and config.stage_names


@pytest.mark.parametrize("emptied", ["--config.model.fusion={}", "--config.model={}"])
def test_a_section_that_is_emptied_and_then_set_is_told(emptied: str) -> None:
    with pytest.raises(ConfigError, match=r"^--config.model.*=\{\}: empties a section"):
        read_config(["--config", "quickstart", emptied, "--config.model.fusion.num_heads=2"])
