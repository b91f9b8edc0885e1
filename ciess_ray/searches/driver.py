"""Full-size fit, TD3 search, selective retraining, test figures, result folder; going on when killed.

METHOD of CIESS (arXiv 2304.03501) sections 2.2 and 3: what is returned is the candidate that is best on
validation once trained to convergence, next to the full-size table and to equal sizes at the same budget.
"""

import contextlib
import copy
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from ciess_ray.candidate import Candidate
from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.data import check_places, load_interactions
from ciess_ray.config.keys import NOT_CHECKPOINT, digest, values_of_key, without_former
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import parse_config, put_overrides
from ciess_ray.files.whole import check_writable, copy_whole, replaced_files, sole_writer
from ciess_ray.plain_text import command
from ciess_ray.resources import check_resources, ray_session
from ciess_ray.result import (
    PROGRESS_FILE,
    RESULT_FILE,
    ResultFolder,
    SearchResult,
    read_progress,
    read_summary,
)
from ciess_ray.searches.candidates import find_candidates
from ciess_ray.searches.checkpoints import Checkpoint, Checkpoints
from ciess_ray.searches.finalists import measure, retrain, write_result
from ciess_ray.searches.journal import Journal, Progress
from ciess_ray.searches.run import Budget, Run, budgets_of
from ciess_ray.tracking.mlflow_connection import connect
from ciess_ray.tracking.runs import Tracker, result_metrics, track
from ciess_ray.training.preparing import FULL_SIZE_FIT, preparations_of, prepare
from envs.data import Interactions
from envs.errors import ConfigError, ResultError, within
from envs.recommenders import own_source, resolve_device

#: In a search's folder, how far it has come where it is finished and takes more episodes; its result stays
#: what it was until that is over.
EXTENSION_FOLDER = "checkpoints/extension"

Watcher = Callable[[Progress], None]


def search(
    config: RunConfig,
    *,
    overwrite: bool = False,
    on_progress: Watcher | None = None,
    tracker: Tracker | None = None,
    shared: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Find the sizes that rank best under the budget, and leave a folder with the packed table.

    Starts Ray on this machine where none is running, and shuts down what it started. Whatever ends the
    search, the folder says how far it came, and :func:`resume` goes on with it.

    Args:
        config: The run.
        overwrite: Whether a result in the output folder may be replaced.
        on_progress: Called after each step of each phase.
        tracker: Records the run in place of what ``config.tracking`` says.
        shared: What was trained ahead, see :func:`ciess_ray.training.preparing.prepare`.

    Raises:
        CiessError: Before minutes are lost: data, budget, configuration or output folder are wrong.
    """
    # This process takes the steps.
    resolve_device(config.recommender.device)
    interactions = load_interactions(config)
    budgets = budgets_of(config, interactions, overwrite=overwrite)
    checkpoints = _checkpoints(config, interactions, is_trial=shared is not None)
    with _prepared(config):
        shutil.rmtree(config.output / EXTENSION_FOLDER, ignore_errors=True)
        checkpoints.clear()
        folder = ResultFolder(config.output)
        return _search(
            config, interactions, budgets, checkpoints, None, {}, folder, on_progress, tracker, shared
        )


def resume(
    folder: Path,
    *,
    more_episodes: int = 0,
    on_progress: Watcher | None = None,
    config: RunConfig | None = None,
    overrides: Sequence[str] = (),
    tracker: Tracker | None = None,
    shared: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Go on with a search that was killed, interrupted or failed, or extend one that is finished.

    It goes on from its last checkpoint and takes the steps that came after anew. With one seed and one
    number of threads its result is that of a search that was never interrupted, as long as the driver takes
    the steps; env runners of their own lose the steps in flight.

    A finished search keeps its result until that of the longer one takes its place, as a whole. Broken off
    meanwhile it is still what it was, and goes on like any other.

    Args:
        folder: Of the search.
        more_episodes: Episodes to take beyond those configured.
        on_progress: Called after each step of each phase.
        config: In place of the folder's own, where paths are no longer what they were.
        overrides: Where the same interactions lie now, e.g. ``dataset.path=elsewhere/log.csv``; where it
            is recorded, e.g. ``tracking.uri=...`` whose password no folder keeps.
        tracker: As in :func:`search`.
        shared: As in :func:`search`.

    Raises:
        ResultError: There is nothing to go on with, or it belongs to something else.
    """
    before = read_summary(folder)
    is_extended = before["status"] == "finished"
    extension = _read_extension(folder, before) if is_extended else None
    if is_extended and not (extension or more_episodes):
        raise ResultError(f"{folder}: this search is finished; --more-episodes N takes N episodes more.")
    before = extension or before
    if config is None:
        config = _config_of(folder, before, more_episodes, overrides)
    resolve_device(config.recommender.device)
    interactions = load_interactions(config)
    if before["dataset"]["fingerprint"] != interactions.fingerprint:
        raise ResultError(
            f"{folder}: {interactions.source} holds other interactions than when this search began; bring "
            "those back to go on, name their file by dataset.path=FILE, or search anew with --overwrite."
        )
    budgets = budgets_of(config, interactions, overwrite=True)
    checkpoints = _checkpoints(config, interactions, is_trial=shared is not None)
    checkpoint = checkpoints.latest()
    if checkpoint is None and is_extended:
        raise ResultError(f"{checkpoints.folder}: no checkpoint, without which a search cannot be extended.")
    with _prepared(config):
        if is_extended and extension is None:
            shutil.rmtree(config.output / EXTENSION_FOLDER, ignore_errors=True)
            if (config.output / PROGRESS_FILE).exists():
                copy_whole(config.output / PROGRESS_FILE, config.output / EXTENSION_FOLDER / PROGRESS_FILE)
        work = ResultFolder(config.output / EXTENSION_FOLDER if is_extended else config.output, resume=True)
        return _search(
            config, interactions, budgets, checkpoints, checkpoint, before, work, on_progress, tracker, shared
        )


def _config_of(
    folder: Path, before: Mapping[str, Any], more_episodes: int, overrides: Sequence[str]
) -> RunConfig:
    """What a folder's search was told, its data where they lie now."""
    values = copy.deepcopy(before["config"]) | {"output": str(folder)}
    values["search"]["num_episodes"] += more_episodes
    dataset = before["dataset"]
    if dataset.get("path") is not None:
        # A whole project may have moved, data and all.
        places = Path(dataset["path"]), folder / dataset["path_from_folder"]
        values["dataset"]["path"] = next((place for place in places if place.exists()), places[0])
    for override in overrides:
        if not override.startswith(("dataset.", "tracking.")):
            raise ConfigError(
                f"{override!r}: a search goes on as it was configured; of the rest give --more-episodes, "
                "dataset.path=FILE where its data have moved, and tracking.uri=URI where it is recorded."
            )
    put_overrides(values, overrides)
    config = parse_config(without_former(values), str(folder / RESULT_FILE))
    check_places([config], "search", folder)
    return config


def _read_extension(folder: Path, finished: dict[str, Any]) -> dict[str, Any] | None:
    """What a longer search that was broken off tells of itself; None where none was begun, or it is over."""
    work = folder / EXTENSION_FOLDER
    if not (work / RESULT_FILE).exists():
        return None
    begun = read_summary(work)
    num_episodes, num_before = (summary["config"]["search"]["num_episodes"] for summary in (begun, finished))
    return begun if num_episodes > num_before else None


@contextlib.contextmanager
def _prepared(config: RunConfig) -> Iterator[None]:
    """Everything that can be known to be wrong is, Ray is there, and a full disk is called by its name."""
    with within("cache"):
        check_writable(config.kept_folder)
    if config.tracking.mlflow:
        connect(config.tracking)
    try:
        # Ray takes seconds.
        with sole_writer(config.checkpoint_folder), ray_session():
            check_resources(config)
            yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(config.output).free
        raise ResultError(
            f"{config.output}: no space is left ({error}; {free / 1e6:,.0f} MB free on its disk). What was "
            "kept before is whole: make room, then "
            f"{command('ciess-ray', 'search', '--resume', config.output)}"
        ) from error


def _search(
    config: RunConfig,
    interactions: Interactions,
    budgets: list[Budget],
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    before: dict[str, Any],
    folder: ResultFolder,
    on_progress: Watcher | None,
    tracker: Tracker | None,
    shared: Mapping[str, Any] | None,
) -> SearchResult:
    seconds = dict(before.get("seconds", {}))
    candidates: list[Candidate] = []
    first_step, notes = 0, []
    if checkpoint is not None:
        seconds["search"] = checkpoint.state["elapsed_s"]
        candidates += checkpoint.state["candidates"]
        first_step, notes = checkpoint.step, [f"goes on after step {checkpoint.step}", *checkpoint.skipped]
    summary: dict[str, Any] = {
        "status": "running",
        "config": config.model_dump(mode="json"),
        "dataset": _describe(config, interactions),
        "budget": {"asked": budgets[0].asked, "cap_params": budgets[0].cap_params},
        "looser_budgets": {budget.asked: budget.name for budget in budgets[1:]},
    }
    with (
        track(
            config,
            config.output.name,
            before.get("mlflow_run_id"),
            {"dataset.fingerprint": interactions.fingerprint},
        )
        if tracker is None
        else contextlib.nullcontext(tracker)
    ) as tracker:
        summary["mlflow_run_id"] = tracker.run_id
        journal = Journal(folder, tracker, on_progress, seconds, folder.rewind_progress(first_step))
        run = Run(config, interactions, ray.put(interactions), budgets, journal)

        @contextlib.contextmanager
        def phase(name: str, num_steps: int, first_step: int = 0, note: str = "") -> Iterator[None]:
            # A search that is killed leaves the name of the phase it was in.
            folder.write_result(summary | {"phase": name, "seconds": journal.seconds})
            with journal.phase(name, num_steps, first_step, note):
                yield

        settings, preparations = config.search, preparations_of(config, interactions)
        try:
            with phase(FULL_SIZE_FIT, config.training.max_batches):
                full = prepare(
                    preparations[0], run.interactions_ref, tell=journal.advance_to_batch, shared=shared
                )
            journal.full_quality = full.quality
            summary["full_size_fit"] = {"is_cached": full.is_cached, "best_batch": full.num_batches}
            pretrained = full.state or None
            for preparation in preparations[1:]:
                with phase(preparation.kind, settings.supernet_batches):
                    pretrained = prepare(
                        preparation, run.interactions_ref, tell=journal.advance_to_loss, shared=shared
                    ).state
            num_steps = settings.num_steps + settings.num_greedy_steps
            with phase("search", num_steps, first_step, "; ".join(notes)):
                find_candidates(run, full, pretrained, candidates, checkpoints, checkpoint)
            folder.write_candidates(candidates)
            with phase("retraining", len(budgets) * (settings.num_candidates + 1)):
                whole, finalists = retrain(run, full, candidates, pretrained)
            with phase("test", 1 + 2 * len(finalists)):
                measured = measure(run, whole, finalists)
            summary |= {
                "status": "finished",
                "phase": "done",
                "num_steps": _last_step(candidates),
                "seconds": journal.seconds,
            }
            with replaced_files(config.output) as new:
                for budget, its_finalists, (rows, recommender) in zip(
                    budgets, finalists, measured, strict=True
                ):
                    its_folder = ResultFolder(new / budget.name)
                    its = summary | write_result(run, budget, its_folder, its_finalists, rows, recommender)
                    its["hints"] = [*(checkpoint.skipped if checkpoint else ()), *its["hints"]]
                    if budget is run.searched:
                        its_folder.write_candidates(candidates)
                        copy_whole(folder.path / PROGRESS_FILE, new / PROGRESS_FILE)
                        steps = [line for line in read_progress(new) if line.get("phase") == "search"]
                        # Matplotlib is imported where something is drawn.
                        from ciess_ray.figures import Course, draw_course, save_png

                        course = Course(config.output.name, steps, full.quality)
                        save_png(draw_course([course]), new / "search.png")
                    else:
                        its_config = summary["config"] | {"budget": budget.asked, "output": str(budget.path)}
                        its |= {"looser_budgets": {}, "config": its_config}
                    its_folder.write_result(its)
                    tracker.log_metrics(result_metrics(its["methods"], budget.name), its["num_steps"])
            shutil.rmtree(config.output / EXTENSION_FOLDER, ignore_errors=True)
            # More episodes need the last one alone.
            checkpoints.keep(1)
        except BaseException as error:
            # Ctrl-C as well as a failure leaves a folder that tells how far it came.
            summary |= {
                "status": "interrupted" if isinstance(error, KeyboardInterrupt) else "failed",
                "phase": journal.current_phase,
                "num_steps": _last_step(candidates),
                "reason": without_secrets(f"{type(error).__name__}: {error}".removesuffix(": ")),
                "seconds": journal.seconds,
            }
            # A full disk must not hide what filled it.
            with contextlib.suppress(OSError):
                if not folder.is_finished:
                    if candidates:
                        folder.write_candidates(candidates)
                    folder.write_result(summary)
            raise
        tracker.log_folder(config.output)
        tracker.log_model(config.output)
    return SearchResult.load(config.output)


def _last_step(candidates: Sequence[Candidate]) -> int:
    return candidates[-1].step if candidates else 0


def _checkpoints(config: RunConfig, interactions: Interactions, *, is_trial: bool = False) -> Checkpoints:
    """Those of a run, with what each must belong to."""
    settings = values_of_key(config, NOT_CHECKPOINT)
    recommender = [settings.pop("recommender"), own_source(config.recommender.name)]
    identity = {
        "dataset": f"{_digest(interactions.fingerprint)} ({interactions.num_users:,} users, "
        f"{interactions.num_items:,} items, {interactions.num_interactions:,} interactions)",
        "recommender": f"{config.recommender.name} ({_digest(recommender)})",
        "version": f"ciess-ray {version('ciess-ray')} with ray {version('ray')}",
        "settings": _digest(settings),
    }
    return Checkpoints(
        config.checkpoint_folder,
        identity,
        interval_s=config.search.checkpoint_interval_s,
        # The last one may be damaged. Tune takes the folder of a trial wherever the sweep is kept, at each.
        num_kept=1 if is_trial else 2,
    )


def _digest(value: Any) -> str:
    return digest(value)[:12]


def _describe(config: RunConfig, interactions: Interactions) -> dict[str, Any]:
    path = None if config.dataset.path is None else config.dataset.path.absolute()
    return {
        "source": interactions.source,
        # A search that goes on may be started in another folder.
        "path": path and str(path),
        "path_from_folder": path and os.path.relpath(path, config.output),
        "fingerprint": interactions.fingerprint,
        "num_users": interactions.num_users,
        "num_items": interactions.num_items,
        "num_interactions": interactions.num_interactions,
        "num_duplicates": interactions.num_duplicates,
        "num_unevaluated_users": interactions.num_unevaluated_users,
        "num_untrained_items": interactions.num_untrained_items,
    }
