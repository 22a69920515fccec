"""The peer's side: its sizes, parameters, operations and data are ours; each of its measurements runs."""

from __future__ import annotations

import ast
import importlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.compare import missing_packages
from bench.forward import prompts
from bench.measure import read_lines
from bench.model_flops import model_flops, visible_pairs
from bench.peer.batches import answer_logps, answer_logps_shared, collate, collate_shared
from bench.peer.dpo import split
from bench.peer.forward import sequences
from bench.peer.model import build_model
from bench.peer.sizes import SIZES as PEER_SIZES
from bench.peer.sizes import make_groups
from bench.sizes import SIZES, draw_answers, draw_prompts, make_model
from tests.support.forked import run_forked
from tests.support.tiny_run import PROGRAM

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_torch_is_imported_on_the_peers_side_alone() -> None:
    """And jax on ours: the peer's environment may be without it. Its inspection shares our files and questions."""
    for path in (ROOT / "bench").rglob("*.py"):
        tops = {name.split(".")[0] for name in imported(path)}
        if path.parent.name == "peer":
            assert path.name == "inspect_folder.py" or not tops & {"jax", "flax", "sage_jax"}, path
            ours = {name for name in imported(path) if name.startswith("bench.")}
            assert path.name == "inspect_folder.py" or all(name.startswith("bench.peer.") for name in ours), path
        else:
            assert not tops & {"torch", "transformers", "trl", "peft", "datasets"}, path


@pytest.mark.parametrize("name", sorted(SIZES))
def test_sizes_are_the_peers(name: str) -> None:
    assert set(PEER_SIZES) == set(SIZES)
    theirs, size = PEER_SIZES[name], SIZES[name]
    vit, decoder = size.model.vit, size.model.decoder
    assert (vit.tile_px, vit.patch_px, size.tiles) == (theirs.tile_px, theirs.patch_px, theirs.tiles)
    assert (vit.num_layers, vit.embed_dim) == (theirs.vit_layers, theirs.vit_dim)
    assert (vit.num_heads, vit.mlp_dim) == (theirs.vit_heads, theirs.vit_mlp)
    assert (decoder.num_layers, decoder.embed_dim, decoder.mlp_dim) == (theirs.layers, theirs.dim, theirs.mlp)
    assert (decoder.num_heads, decoder.num_kv_heads) == (theirs.heads, theirs.kv_heads)
    assert (decoder.norm_eps, decoder.qkv_bias) == (theirs.norm_eps, theirs.family == "qwen2")
    assert (size.vocab_size, size.image_tokens) == (theirs.vocab_size, theirs.image_tokens)
    assert (size.question_tokens, size.answer_tokens) == (theirs.question_tokens, theirs.answer_tokens)
    assert size.new_tokens == theirs.new_tokens


def test_both_sides_have_the_same_number_of_parameters() -> None:
    """Beside the fusion of facts and their encoder, which the peer has none of."""
    _, params = make_model(SIZES["tiny"])
    ours = sum(leaf.size for path, leaf in params.items() if not path.startswith(("fusion/", "fact_encoder/")))
    theirs = build_model(PEER_SIZES["tiny"])
    assert ours == sum(parameter.numel() for parameter in theirs.parameters())


def test_both_sides_take_the_same_number_of_operations() -> None:
    """As torch counts those of a forward pass. It multiplies hidden pairs too, which our formula leaves out."""
    size, rows = SIZES["tiny"], 2
    model, batch = build_model(PEER_SIZES["tiny"], attention="eager"), sequences(PEER_SIZES["tiny"], rows)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**batch, use_cache=False)
    tree = prompts(size, rows, seed=1)
    tokens = int(np.sum(tree.token_mask))
    assert tokens == batch["input_ids"].numel()
    decoder = size.model.decoder
    hidden = rows * (tokens // rows) ** 2 - visible_pairs(tree)
    hidden_flops = 4.0 * hidden * decoder.num_heads * decoder.width_of_head * decoder.num_layers
    ours = model_flops(size, tree, answer_tokens=tokens).forward() + hidden_flops
    assert math.isclose(counter.get_total_flops(), ours, rel_tol=5e-3)


def test_data_are_the_peers() -> None:
    size = SIZES["tiny"]
    groups = make_groups(PEER_SIZES["tiny"], 3, 11)
    text, drawn = draw_prompts(size, 3, 11)
    np.testing.assert_array_equal(text, groups.prompt_ids[:, size.image_tokens :])
    np.testing.assert_array_equal(drawn, groups.pixels)
    assert [[one.tolist() for one in ranked] for ranked in draw_answers(size, 3, 11)] == groups.answers


def test_a_shared_prompt_scores_answers_as_repeated_ones_do() -> None:
    groups = make_groups(PEER_SIZES["tiny"], 2, 5)
    model = build_model(PEER_SIZES["tiny"])
    with torch.inference_mode():
        repeated = split(answer_logps(model, collate(groups.pairs())), shared=False)
        shared = split(answer_logps_shared(model, collate_shared(groups)), shared=True)
    for found, expected in zip(shared, repeated, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("command", "rate"),
    [
        ("dpo --variant trl", "questions_per_s"),
        ("dpo --variant loop --lora 4 --gradient-checkpointing", "questions_per_s"),
        ("dpo --variant precomputed --dtype bfloat16", "questions_per_s"),
        ("dpo --variant shared --freeze-vision", "questions_per_s"),
        ("sft --rows 2 --gradient-checkpointing", "tokens_per_s"),
        ("forward --rows 2 --tiles 2", "tokens_per_s"),
        ("generate --rows 2", "decode_tokens_per_s"),
    ],
)
def test_each_measurement_prints_a_line(
    command: str, rate: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing := missing_packages(sys.executable, ["edpo_trl"]) if "trl" in command else []:
        pytest.skip(f"not installed: {', '.join(missing)}, of requirements-peer.txt")
    for name in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):  # set by the benchmark, undone after the test
        monkeypatch.setenv(name, "1")
    script, *arguments = command.split()
    threads = str(torch.get_num_threads())
    given = [*arguments, "--repeats", "1", "--warmup", "0", "--threads", threads]
    importlib.import_module(f"bench.peer.{script}").main(given)
    (line,) = read_lines(capsys.readouterr().out.splitlines())
    assert (line["peer"], line["size"], line["n"]) == ("transformers", "tiny", 1)
    assert line["what"] == command.split()[0] and line["tiles"] == (2 if "--tiles" in command else 1)
    assert all(line[name] > 0 for name in ("seconds", rate, "peak_memory_gb"))


def line_of(command: list[str]) -> dict[str, Any]:
    """The one line of a benchmark at the size tiny, measured once."""
    measured = [f"bench.{command[0]}", *command[1:], "--repeats", "1", "--warmup", "0"]
    done = run_forked(measured, environment=os.environ | PROGRAM, cwd=ROOT, timeout=500)  # one device, as they are run
    assert done.returncode == 0, done.stderr
    (line,) = read_lines(done.stdout.splitlines())
    return line


def test_both_sides_of_an_inspected_folder_answer_the_same_questions_of_the_same_files(tmp_path: Path) -> None:
    asked = ["--work", str(tmp_path), "--images", "2", "--questions", "2", "--rows", "2"]
    line, peers = (line_of([script, *asked]) for script in ("inspect_folder", "peer.inspect_folder"))
    for figures in (line, peers):
        assert (figures["images"], figures["questions"], figures["new_tokens"]) == (2, 2, 64) and figures["n"] == 1
        assert all(figures[name] > 0 for name in ("seconds", "images_per_s", "process_images_per_s"))
    assert 0 < line["answer_tokens"] <= peers["answer_tokens"] == 2 * 2 * 64
    assert line["process_seconds"] > line["seconds"] > line["batch_seconds"] >= line["first_batch_seconds"] > 0
