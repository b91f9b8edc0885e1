"""What several trials of a sweep need is trained once, ahead of them, and handed to them."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from ciess_ray.config.data import dataset_key
from ciess_ray.resources import num_threads
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import read_summary_of
from ciess_ray.training.preparing import file_of, prepare_all
from ciess_ray.training.pretrained import Preparation, preparations_of
from envs.data import Interactions

#: Within the storage of a sweep.
CACHE_FOLDER = "cache"


def prepare_shared(
    plan: SweepPlan,
    data: Mapping[str, Interactions],
    storage: Storage,
    work: Path,
    tell: Callable[[int, int], None],
) -> dict[str, Any]:
    """Train what more than one unfinished trial needs; what the sweep's storage holds is not trained again.

    A trial trains itself what it alone needs, and what a searcher tries that no draw of the plan foresaw.

    Args:
        plan: The sweep.
        data: Interactions by :func:`ciess_ray.config.data.dataset_key`.
        storage: Of the sweep.
        work: A folder on this machine, for a storage that is on none.
        tell: Called with how many are there, or have failed, and how many there are in all.

    Returns:
        By key, references for :func:`ciess_ray.training.preparing.prepare`.
    """
    needed: dict[str, Preparation] = {}
    counts: Counter[str] = Counter()
    for trial in plan.trials:
        is_new = plan.config.searcher != "random" or read_summary_of(storage, trial.name) is None
        for preparation in preparations_of(trial.config, data[dataset_key(trial.config)]) if is_new else ():
            needed[preparation.key] = preparation
            counts[preparation.key] += 1
    folder = Path(storage.location) / CACHE_FOLDER if storage.is_local else work / CACHE_FOLDER
    shared = []
    for key, preparation in needed.items():
        file = file_of(preparation, folder)
        place = f"{CACHE_FOLDER}/{file.name}"
        if not storage.is_local and storage.has(place):
            storage.download(place, file)
        if counts[key] > 1 or file.exists():
            shared.append(preparation)
    if not shared:
        return {}
    used = {dataset_key(preparation.config) for preparation in shared}
    references = {key: ray.put(data[key]) for key in used}
    done = 0

    def keep(preparation: Preparation) -> None:
        nonlocal done
        done += 1
        file = file_of(preparation, folder)
        if not storage.is_local and file.exists():
            storage.upload(file, f"{CACHE_FOLDER}/{file.name}")
        tell(done, len(shared))

    tell(0, len(shared))
    return prepare_all(
        [(preparation, references[dataset_key(preparation.config)]) for preparation in shared],
        folder,
        lambda preparation: num_threads(preparation.config),
        keep,
    )
