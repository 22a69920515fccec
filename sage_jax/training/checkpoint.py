"""Checkpoints of a training stage: its state while it trains, and its parameters when it is done (Orbax)."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from sage_jax.config import ConfigError, config_changes
from sage_jax.parameters import Params, digest
from sage_jax.process.checksums import FILE as CHECKSUMS
from sage_jax.process.checksums import damaged, sealed_json, write_checksums
from sage_jax.process.files import replace_file
from sage_jax.process.several import gather_json
from sage_jax.training.finished import DONE, FINAL, CheckpointError, readable, seal_index

_MOST_SEALED: Final = 8 << 30
"""Bytes of a checkpoint to resume from up to which its files get checksums: they are read once for it."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held.

    Attributes:
      step: Steps done when it was written.
      state: The state, on the shardings asked for.
      loader_state: Position of this process's data loader, as its `get_state` gave it.
      config_json: The config that it was written under.
      seconds: Time trained until then.
    """

    step: int
    state: Any
    loader_state: Any
    config_json: str
    seconds: float


class StageCheckpoints:
    """Checkpoints of one stage in a folder, written in the background; a process may be killed at any moment.

    A checkpoint is written under a temporary name and renamed when it is whole, so that what a killed save leaves is
    never restored; leftovers are removed here. `checkpoints/<step>` are for resuming; `final` with `DONE.json` are the
    parameters of the finished stage.

    Args:
      directory: Folder of the stage.
      keep_last: Newest checkpoints kept. The one of the highest score is kept as well.
      starts_from: Hash of the weights that the stage starts from; "" = fresh ones.

    Raises:
      ConfigError: `keep_last` is below 1: the checkpoint just written would be deleted.
    """

    def __init__(self, directory: Path | str, *, keep_last: int, starts_from: str = "") -> None:
        self._starts_from = starts_from
        self._unsealed: Path | None = None
        if keep_last < 1:
            raise ConfigError(f"keep_last = {keep_last}: give 1 or more, or a stopped run cannot resume")
        self.directory = Path(directory).absolute()
        self._best = _BestAndLast(keep_last)
        self._manager = ocp.CheckpointManager(
            self.directory / "checkpoints",
            options=ocp.CheckpointManagerOptions(preservation_policy=self._best, cleanup_tmp_directories=True),
            item_names=("state", "about"),
        )
        for step in self._manager.all_steps():
            self._require_whole(step)
            self._best.scores[step] = self._about(step)["score"]

    def __enter__(self) -> StageCheckpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def latest_step(self) -> int | None:
        """Steps done at the newest checkpoint, or None without one."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Steps done at the checkpoint of the highest score, or None where none has a score."""
        return self._best.best(self._manager.all_steps())

    def save(
        self, step: int, state: Any, *, loader_state: Any, config_json: str, seconds: float, score: float | None = None
    ) -> None:
        """Starts to write a checkpoint and returns once the state is copied; it may be donated right after.

        Args:
          step: Steps done. A checkpoint of that step that is there already stays as it is.
          state: Pytree of arrays.
          loader_state: Bytes or JSON values; of this process, all processes' are kept.
          config_json: The config that trains.
          seconds: Time trained so far.
          score: Quality of the state, higher is better; None = not measured.
        """
        self._manager.wait_until_finished()  # what it deletes is gone then, too
        self._seal()
        loaders = gather_json(_encoded(loader_state))  # before any return: every process must take part
        if step in self._manager.all_steps():
            return
        about = {
            "loaders": loaders,
            "config": json.loads(config_json),
            "seconds": seconds,
            "score": score,
            "starts_from": self._starts_from,
            "arrays": _shapes(state),
        }
        self._best.scores[step] = score
        self._unsealed = self._folder(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)),
            force=True,
        )

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        """The newest checkpoint, its arrays read straight to their shardings, or None without one.

        Args:
          abstract_state: Pytree of `jax.ShapeDtypeStruct` with shardings; the mesh may differ from the saved one.

        Raises:
          CheckpointError: Its arrays are not those of `abstract_state`, its stage started from other weights, or
            another number of processes wrote it whose loaders stood at different places.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        about = self._about(step)
        self._check_arrays(step, about["arrays"], _shapes(abstract_state))
        if (
            about.get("starts_from") or self._starts_from
        ) != self._starts_from:  # older ones have none of given weights
            raise CheckpointError(
                f"{self._manager.directory}/{step}: the weights that this stage starts from are others now: the stage "
                "before has been trained anew since, or model.weights has other content; "
                f"delete {self.directory} to train this one anew too"
            )
        loaders = about["loaders"]
        if len(loaders) != jax.process_count() and any(each != loaders[0] for each in loaders):
            raise CheckpointError(
                f"{self._manager.directory}/{step}: written by {len(loaders)} processes, each at a place of its own in "
                f"the data; resume with as many, not {jax.process_count()}"
            )
        wanted = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        with readable(self._folder(step)):
            restored = self._manager.restore(step, args=wanted)
        return Restored(
            step=step,
            state=restored["state"],
            loader_state=_decoded(loaders[jax.process_index() % len(loaders)]),
            config_json=json.dumps(about["config"]),
            seconds=about["seconds"],
        )

    def save_final(self, params: Params, *, config_json: str) -> None:
        """Writes all parameters of the finished stage, then the marker that says so; waits for both."""
        self.wait()
        weights = digest(params)
        marker = self.directory / DONE
        if jax.process_index() == 0:
            marker.unlink(missing_ok=True)
        _barrier("final_unmarked")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self.directory / FINAL, params, force=True)
        if jax.process_index() == 0:
            seal_index(self.directory / FINAL)
            about = {"weights": weights, "starts_from": self._starts_from, "config": json.loads(config_json)}
            replace_file(marker, json.dumps(sealed_json(about), indent=2))
        _barrier("final_marked")

    def seal_written(self) -> None:
        """Writes the checksums of the checkpoint under way if it is whole by now; to be called in each step."""
        if self._unsealed is not None and self._unsealed.is_dir():
            self._seal()

    def wait(self) -> None:
        """Returns when every started checkpoint is on disk."""
        self._manager.wait_until_finished()
        self._seal()

    def close(self) -> None:
        """Waits for started checkpoints, and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _seal(self) -> None:
        """Writes the checksums of the checkpoints that are whole and have none, but for very large ones."""
        for step in self._manager.all_steps() if jax.process_index() == 0 else ():
            folder = self._folder(step)
            if folder.is_dir() and not (folder / CHECKSUMS).exists() and _size(folder) <= _MOST_SEALED:
                write_checksums(folder)
        self._unsealed = None

    def _require_whole(self, step: int) -> None:
        if bad := damaged(self._folder(step)):
            raise CheckpointError(
                f"{self._folder(step) / bad[0]}: damaged: it is not as it was written. Bring it back from a copy, or "
                f"delete the folder {self._folder(step)}: the stage then goes on from the checkpoint before it, or "
                "from its start"
            )

    def _folder(self, step: int) -> Path:
        return self.directory / "checkpoints" / str(step)

    def _about(self, step: int) -> dict[str, Any]:
        with readable(self._folder(step)):
            return self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]

    def _check_arrays(self, step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
        changes = [*map(str, config_changes(json.dumps(saved), json.dumps(wanted)))]
        if changes:
            listed = "\n  ".join(changes[:10] + [f"and {len(changes) - 10} more"] * (len(changes) > 10))
            raise CheckpointError(
                f"{self._manager.directory}/{step}: this config trains other arrays than the checkpoint holds:\n"
                f"  {listed}\n"
                "Restore the config's model, freeze and lora fields; where they are as they were, another version of "
                f"sage_jax wrote the checkpoint: go on with that one, or delete {self.directory} to train this stage "
                "anew"
            )


class _BestAndLast:
    """Orbax preservation policy: the newest n checkpoints and the one of the highest score."""

    def __init__(self, keep_last: int) -> None:
        self.keep_last = keep_last
        self.scores: dict[int, float | None] = {}

    def best(self, steps: Sequence[int]) -> int | None:
        scored = {step: score for step in steps if (score := self.scores.get(step)) is not None}
        return max(scored, key=lambda step: scored[step]) if scored else None

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.keep_last :], self.best(steps)}
        return [step in kept for step in steps]


def _shapes(tree: Any) -> dict[str, str]:
    """What each array of a pytree is, by its path, such as `float32[2, 3]`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _encoded(loader_state: Any) -> Any:
    if isinstance(loader_state, bytes):
        return {"bytes": base64.b64encode(loader_state).decode()}
    return {"json": loader_state}


def _decoded(loader_state: Any) -> Any:
    return base64.b64decode(loader_state["bytes"]) if "bytes" in loader_state else loader_state["json"]


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
