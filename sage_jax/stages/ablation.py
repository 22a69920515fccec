"""Stage `ablate`: base, plain facts, SFE, DPO and E-DPO over several seeds, in one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import rich.console

from sage_jax.journal.ablation import ablation_tables, write_ablation
from sage_jax.journal.summary import load_summary
from sage_jax.process.stop_request import stop_if_asked
from sage_jax.stages.run import Run, Stage, StageCost


def ablate(stage: Stage, run_stage: Callable[[Run, str], None]) -> StageCost:
    """Trains and scores the ablation's models for each seed in a run of its own; writes the table over seeds.

    Args:
      run_stage: Runs a stage of such a run by its name.
    """
    run, config = stage.run, stage.config
    summaries, folders = {}, {}
    for seed in config.ablate.seeds:
        one = seed_run(run, seed)
        stage.log.line(f"seed {seed}")
        one.folder.write_json("config.json", dataclasses.asdict(one.config))
        for name in ("prepare", *config.ablate.stages, "evaluate"):
            stop_if_asked(f"stopped before stage {name} of seed {seed}")
            run_stage(one, name)
        summaries[seed], folders[seed] = load_summary(one.folder.summary), one.folder.path
    if jax.process_index() == 0:
        console = rich.console.Console(width=max(100, rich.console.Console().width))
        console.print(ablation_tables(write_ablation(run.folder.path, summaries, folders)))
    return StageCost()


def seed_run(run: Run, seed: int) -> Run:
    """The run that `ablate` makes for a seed, in a folder of its own."""
    config = run.config
    evaluate = dataclasses.replace(config.evaluate, stages=config.ablate.stages)
    folder = str(run.folder.path / f"seed_{seed}")
    return Run(dataclasses.replace(config, run_dir=folder, seed=seed, evaluate=evaluate))
