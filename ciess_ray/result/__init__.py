"""What a search leaves on disk, and how it is read back.

One folder, no pickle in it:

    manifest.json          a checksum of every file below but progress.jsonl
    result.json            config, seeds, versions, budget asked and met, metrics, seconds by phase, bytes
    sizes.parquet          kind, id, embedding size and popularity of every entity
    table.safetensors      the packed table: what the budget caps
    scorer.safetensors     the recommender's other weights
    interactions.npz       the training graph, of training and validation interactions
    test.npz               the interactions that the test figures are of; users have seen these too
    ids.parquet            the ids of the user's own data, by row
    candidates.parquet     every table that was tried: step, what it was, kept ratio, quality, sizes
    progress.jsonl         a line a step of every phase
    sizes.png, search.png  figures
    checkpoints/           what a search that was killed needs to go on; pickles, not to be shared
"""

from ciess_ray.result.folder import (
    CANDIDATES_FILE,
    CHECKPOINT_FOLDER,
    NOT_SETTINGS,
    PROGRESS_FILE,
    RESULT_FILE,
    SIZES_FILE,
    ResultFolder,
    check_output,
    checkpoint_bytes,
    dataset_name,
    looser_folders,
    read_progress,
    read_steps,
    read_summary,
    versions,
)
from ciess_ray.result.search_result import SearchResult

__all__ = [
    "CANDIDATES_FILE",
    "CHECKPOINT_FOLDER",
    "NOT_SETTINGS",
    "PROGRESS_FILE",
    "RESULT_FILE",
    "SIZES_FILE",
    "ResultFolder",
    "SearchResult",
    "check_output",
    "checkpoint_bytes",
    "dataset_name",
    "looser_folders",
    "read_progress",
    "read_steps",
    "read_summary",
    "versions",
]
