"""Full-size fit, TD3 search, selective retraining, test figures, result folder; going on when killed.

METHOD of CIESS (arXiv 2304.03501) sections 2.2 and 3: what is returned is the candidate that is best on
validation once trained to convergence, next to the full-size table and to equal sizes at the same budget.
"""

import contextlib
import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from ciess_ray import metric_keys
from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.data import check_places, load_interactions
from ciess_ray.config.keys import without_former
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import parse_config, put_overrides
from ciess_ray.files.whole import copy_whole, replaced_files
from ciess_ray.result import (
    PROGRESS_FILE,
    RESULT_FILE,
    ResultFolder,
    SearchResult,
    read_summary,
    search_lines,
)
from ciess_ray.searches.beginning import (
    budgets_of,
    checkpoints_of,
    describe,
    prepared,
    recorded,
    told_budgets,
)
from ciess_ray.searches.candidates import find_candidates
from ciess_ray.searches.checkpoints import Checkpoint, Checkpoints
from ciess_ray.searches.clock import Clock, foretell
from ciess_ray.searches.finalists import retrain
from ciess_ray.searches.outcome import Refitted, measure, refit, write_result
from ciess_ray.searches.run import Journal, Run, Watcher
from ciess_ray.searches.sample import budgets_in_search, draw_users, for_everybody, told_sample
from ciess_ray.tracking.runs import Tracker, result_metrics, track
from ciess_ray.training.auto import find_run, stand_ins
from ciess_ray.training.preparing import FULL_SIZE_FIT, preparations_of, prepare
from ciess_ray.training.recipes import RECIPE, full_size_quality
from ciess_ray.training.rules import with_rules, with_sections
from envs.data import Interactions
from envs.errors import ConfigError, ResultError, TrainingError
from envs.recommenders import resolve_device

#: In a search's folder, how far it has come where it is finished and takes more episodes; its result stays
#: what it was until that is over.
EXTENSION_FOLDER = "checkpoints/extension"


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
    return _search(config, {}, "", on_progress, tracker, shared, overwrite=overwrite)


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
    before, work = read_summary(folder), ""
    if before["status"] == "finished":
        work = EXTENSION_FOLDER
        begun = read_summary(folder / work) if (folder / work / RESULT_FILE).exists() else before
        num_begun, num_before = (summary["config"]["search"]["num_episodes"] for summary in (begun, before))
        # Of one that is over something may be left.
        if num_begun > num_before:
            before = begun
        elif not more_episodes:
            raise ResultError(f"{folder}: this search is finished; --more-episodes N takes N episodes more.")
    if config is None:
        config = _config_of(folder, before, more_episodes, overrides)
    elif config.finds_recipe and before.get("recipe"):
        # What was found is not found anew.
        config = with_sections(config, _config_of(folder, before, more_episodes, ()))
    return _search(config, before, work, on_progress, tracker, shared, overwrite=True)


def _config_of(
    folder: Path, before: Mapping[str, Any], more_episodes: int, overrides: Sequence[str]
) -> RunConfig:
    """What a folder's search was told, its data where they lie now."""
    values = copy.deepcopy(before["config"]) | {"output": str(folder)}
    values["search"]["num_episodes"] += more_episodes
    # One from before there was a refit ends without.
    values["search"].setdefault("refit", False)
    dataset = before["dataset"]
    if dataset.get("path_from_folder") is not None:
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


def _search(
    config: RunConfig,
    before: Mapping[str, Any],
    work: str,
    on_progress: Watcher | None,
    tracker: Tracker | None,
    shared: Mapping[str, Any] | None,
    *,
    overwrite: bool,
) -> SearchResult:
    """A search from its start, or from where it left off.

    Args:
        config: The run.
        before: What ``result.json`` said of it where it left off; nothing of a new one.
        work: The folder, within its own, that is told how far it has come.
        on_progress: As in :func:`search`.
        tracker: As there.
        shared: As there.
        overwrite: As there.
    """
    # What a finished search took is its own; that of an extension is told anew. Reading counts, too.
    begun = before.get("clock") if before.get("status") != "finished" else None
    clock = Clock(begun, None if work else config.time_s)
    # This process takes the steps.
    resolve_device(config.recommender.device)
    everybody = load_interactions(config)
    interactions = draw_users(config, everybody)
    # What a user leaves alone is found.
    asked, (*others, named) = config, stand_ins(config, everybody)
    config = with_rules(named, interactions)
    if before and before["dataset"]["fingerprint"] != everybody.fingerprint:
        raise ResultError(
            f"{config.output}: {everybody.source} holds other interactions than when this search began; "
            "bring those back to go on, name their file by dataset.path=FILE, or search anew with "
            "--overwrite."
        )
    budgets = budgets_of(config, everybody, overwrite=overwrite)
    in_search = budgets_in_search(config, interactions, budgets)
    checkpoints = checkpoints_of(config, interactions, is_trial=shared is not None)
    resumed = checkpoints.latest() if before and not asked.finds_recipe else None
    if work and resumed is None:
        raise ResultError(f"{checkpoints.folder}: no checkpoint, without which a search cannot be extended.")
    with prepared(config):
        if not before:
            checkpoints.clear()
        if before.get("status", "finished") == "finished":
            # What is left of an extension is not of this one.
            shutil.rmtree(config.output / EXTENSION_FOLDER, ignore_errors=True)
        if work and not (config.output / work).exists() and (config.output / PROGRESS_FILE).exists():
            copy_whole(config.output / PROGRESS_FILE, config.output / work / PROGRESS_FILE)
        folder = ResultFolder(config.output / work, resume=bool(before))
        num_tracked = folder.rewind_progress(resumed.step if resumed else 0)
        journal = Journal(folder, on_progress, before.get("seconds"), clock)
        run = Run(config, interactions, ray.put(interactions), in_search, journal)
        if resumed:
            journal.summary["seconds"]["search"] = resumed.state["elapsed_s"]
            run.candidates.extend(resumed.state["candidates"])
        journal.summary |= {
            "status": "running",
            "config": recorded(asked, config),
            "dataset": describe(config, everybody),
            "sample": told_sample(config, interactions),
            **told_budgets(budgets),
            "mlflow_run_id": before.get("mlflow_run_id"),
            "recipe": before.get("recipe"),
        }
        with clock.usage, _told(run, folder):
            # What others share they look at together.
            if not clock.has_forecast and (shared is None or config.time) and not work:
                splits = interactions, run.interactions_ref
                outlook = foretell(
                    named, *splits, clock.usage, run.num_steps, everybody=everybody, rivals=others
                )
                clock.foretell(outlook)
                journal.say("clock", outlook.line)
                run = replace(run, config=outlook.config)
                journal.summary["config"] = recorded(asked, run.config)
                config = run.config
                checkpoints = checkpoints_of(config, interactions, is_trial=shared is not None)
            if asked.finds_recipe:
                run = _with_recipe(run, asked)
                config = run.config
                checkpoints = checkpoints_of(config, interactions, is_trial=shared is not None)
            tags = {"dataset.fingerprint": everybody.fingerprint}
            with (
                track(config, config.output.name, before.get("mlflow_run_id"), tags)
                if tracker is None
                else contextlib.nullcontext(tracker)
            ) as tracker:
                journal.record_with(tracker, num_tracked)
                journal.summary["mlflow_run_id"] = tracker.run_id
                _run_phases(run, everybody, folder, tracker, checkpoints, resumed, shared)
                tracker.log_folder(config.output)
                tracker.log_model(config.output)
    return SearchResult.load(config.output)


@contextlib.contextmanager
def _told(run: Run, folder: ResultFolder) -> Iterator[None]:
    """Ctrl-C as well as a failure leaves a folder that tells how far the search came."""
    try:
        yield
    except BaseException as error:
        summary = run.journal.summary
        summary |= {
            "status": "interrupted" if isinstance(error, KeyboardInterrupt) else "failed",
            "num_steps": run.num_steps,
            "reason": without_secrets(f"{type(error).__name__}: {error}".removesuffix(": ")),
        }
        # A full disk must not hide what filled it.
        with contextlib.suppress(OSError):
            if not folder.is_finished:
                if run.candidates:
                    folder.write_candidates(run.candidates)
                folder.write_result(summary)
        raise


def _with_recipe(run: Run, asked: RunConfig) -> Run:
    """The run with the recipe that is found, which its folder is told."""
    journal = run.journal

    def tell(num_done: int, num_trainings: int, quality: float, name: str, batch: int | None) -> None:
        if not name:
            journal.begin_round(num_trainings)
        elif batch is None:
            journal.advance(num_done, {metric_keys.QUALITY: quality}, f"{name}: quality {quality:.4f}")
        else:
            journal.tell(f"{name}: batch {batch}, quality {quality:.4f}")

    with journal.phase(RECIPE, 1):
        found = find_run(asked, run.interactions, run.interactions_ref, tell, journal.clock.effort)
        for row in found.rated:
            journal.advance(journal.num_steps, {}, str(row))
    journal.summary |= {"config": found.config.model_dump(mode="json"), "recipe": found.told(asked)}
    budgets = run.budgets
    if found.rated:
        # Of a recommender that was chosen the budget is that of its table.
        budgets = budgets_of(found.config, run.interactions, overwrite=True)
        journal.summary |= told_budgets(budgets)
    return replace(run, config=found.config, budgets=budgets)


def _in_time(run: Run) -> Run:
    """The run with as many episodes as time is left for."""
    search = run.config.search
    number = run.journal.clock.num_episodes(search.num_episodes)
    if number == search.num_episodes:
        return run
    run.journal.summary["config"]["search"]["num_episodes"] = number
    search = search.model_copy(update={"num_episodes": number})
    return replace(run, config=run.config.model_copy(update={"search": search}))


def _run_phases(
    run: Run,
    everybody: Interactions,
    folder: ResultFolder,
    tracker: Tracker,
    checkpoints: Checkpoints,
    resumed: Checkpoint | None,
    shared: Mapping[str, Any] | None,
) -> None:
    """From the full-size fit to the results, which take their places all at once."""
    config, settings, journal = run.config, run.config.search, run.journal
    fit, *supernets = preparations_of(config, run.interactions)
    # What is computed takes no batches.
    num_batches = 1 if config.recommender.is_closed_form else config.training.max_batches
    with journal.phase(FULL_SIZE_FIT, num_batches):
        full = prepare(
            fit,
            run.interactions_ref,
            tell=lambda batch, quality: journal.advance(
                batch, {metric_keys.QUALITY: quality}, f"quality {quality:.4f}"
            ),
            shared=shared,
        )
    # What is searched may be trained as the full table would not be.
    tried = (journal.summary["recipe"] or {}).get("tried", [])
    journal.full_quality = max(full.quality, full_size_quality(tried, config.recommender.name))
    journal.summary["full_size_fit"] = {"is_cached": full.is_cached, "best_batch": full.num_batches}
    pretrained = full.state or None
    for supernet in supernets:
        with journal.phase(supernet.kind, settings.supernet_batches):
            pretrained = prepare(
                supernet,
                run.interactions_ref,
                tell=lambda batch, loss: journal.advance(batch, {}, f"loss {loss:.4f}"),
                shared=shared,
            ).state
    run = _in_time(run)
    settings = run.config.search
    skipped = [*resumed.skipped] if resumed else []
    note = "; ".join([f"goes on after step {run.num_steps}", *skipped]) if resumed else ""
    with journal.phase("search", settings.num_steps + settings.num_greedy_steps, run.num_steps, note):
        find_candidates(run, full, pretrained, checkpoints, resumed)
    folder.write_candidates(run.candidates)
    with journal.phase("retraining", len(run.budgets) * (settings.num_candidates + 1)):
        whole, finalists = retrain(run, full, pretrained)
    run, whole, finalists = for_everybody(run, everybody, whole, finalists)
    with journal.phase("test", 1 + 2 * len(finalists)):
        measured = measure(run, whole, finalists)
    refits: Sequence[Refitted | None] = [None] * len(finalists)
    if settings.refit:
        with journal.phase("refit", len(finalists)):
            try:
                refits = refit(run, finalists)
            except TrainingError as error:
                # All has been measured by now, and it would fail again.
                skipped.append(f"the refit failed: {error} What was measured is packed, without test.")
    summary = journal.summary | {"status": "finished", "phase": "done", "num_steps": run.num_steps}
    with replaced_files(config.output) as new:
        for budget, chosen, (rows, recommender), refitted in zip(
            run.budgets, finalists, measured, refits, strict=True
        ):
            its_folder = ResultFolder(new / budget.name)
            its = summary | write_result(run, budget, its_folder, chosen, rows, recommender, refitted)
            its["hints"] = [*skipped, *its["hints"]]
            if budget.name:
                different = {"budget": budget.asked, "output": str(config.output / budget.name)}
                its |= {"looser_budgets": {}, "config": its["config"] | different}
            else:
                its_folder.write_candidates(run.candidates)
                copy_whole(folder.path / PROGRESS_FILE, new / PROGRESS_FILE)
                # Matplotlib is imported where something is drawn.
                from ciess_ray.figures import Course, draw_course, save_png

                course = Course(config.output.name, search_lines(new), journal.full_quality)
                save_png(draw_course([course]), new / "search.png")
            its_folder.write_result(its)
            tracker.log_metrics(result_metrics(rows, budget.name), run.num_steps)
    shutil.rmtree(config.output / EXTENSION_FOLDER, ignore_errors=True)
    # More episodes need the last one alone.
    checkpoints.keep(1)
