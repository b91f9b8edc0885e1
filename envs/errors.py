"""Every exception the project raises on purpose.

    CiessError
    ├── DataError                interactions that cannot be read or split
    ├── BudgetError              a memory budget that is unreadable or cannot be met
    ├── EmbeddingSizeError       sizes outside their bounds, or of the wrong shape
    ├── ConfigError              a field, key or option that is wrong
    │   ├── UnknownNameError     a name that is in no table, with the nearest that is
    │   └── NoMemoryError        what this machine has too little memory for
    ├── RecommenderProtocolError a recommender of one's own that breaks a rule of the protocol
    ├── TrainingError            a base recommender whose training failed
    └── ResultError              a result folder that exists, is incomplete or was changed

A message says what was wrong, where (file, row, field), and what to do.
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator

_MAX_LISTED = 20
#: What some say for a name, and no spelling of it is near to.
_SAME = {"gpu": "cuda"}


class CiessError(Exception):
    """Base of every exception raised on purpose; its message is meant for the user."""


class DataError(CiessError):
    """Interactions that cannot be read or split."""


class BudgetError(CiessError):
    """A memory budget that is unreadable or cannot be met."""


class EmbeddingSizeError(CiessError):
    """Embedding sizes outside their bounds, or of the wrong shape."""


class ConfigError(CiessError):
    """A configuration field, key or option that is wrong."""


class UnknownNameError(ConfigError):
    """A name that is in no table; see :func:`check_name`."""


class NoMemoryError(ConfigError):
    """What was asked for takes more memory than this machine has."""


class RecommenderProtocolError(CiessError):
    """A recommender of one's own that breaks a rule of the protocol; see ``envs.recommenders.protocol``."""


class TrainingError(CiessError):
    """A base recommender whose training failed."""


class ResultError(CiessError):
    """A result folder that exists, is incomplete or was changed."""


@contextlib.contextmanager
def within(source: object) -> Iterator[None]:
    """In the block, the message of every error of ours begins with where it was found, e.g. a file's name."""
    try:
        yield
    except CiessError as error:
        raise type(error)(f"{source}: {error}") from error


def check_name(what: str, name: str, names: Iterable[str]) -> str:
    """A name that is in a table.

    Args:
        what: What it names, e.g. ``"recommender"``.
        name: The name given.
        names: The names there are.

    Raises:
        UnknownNameError: It is none of them; the nearest is named.
    """
    names = list(names)
    if name not in names:
        raise unknown_name(what, name, names)
    return name


def unknown_name(what: str, name: str, names: Iterable[str]) -> UnknownNameError:
    """What is raised where a name is in no table; see :func:`check_name`."""
    names = sorted(names)
    meant = _SAME.get(name.lower())
    near = [meant] if meant in names else difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    # Beside the nearest of very many names, the others are noise.
    listed = "" if near and len(names) > _MAX_LISTED else f" Known: {', '.join(names)}."
    return UnknownNameError(f"unknown {what} {name!r}.{hint}{listed}")
