"""Where progress is shown: in a notebook's cell, at a terminal, wherever it is asked for, or nowhere."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from ciess_ray.terminal import Terminal, console, in_notebook

#: None: where somebody watches; True, False: always, never; a function is called with each piece of news.
Progress: TypeAlias = bool | Callable[[Any], None] | None


@contextlib.contextmanager
def shown(
    progress: Progress, view: Callable[[Terminal], contextlib.AbstractContextManager[Callable[[Any], None]]]
) -> Iterator[Callable[[Any], None] | None]:
    """What is to be called with each piece of news.

    Args:
        progress: What the caller asked for.
        view: Makes what shows news on a console.
    """
    is_watched = console.is_terminal or in_notebook()
    if callable(progress):
        yield progress
    elif progress or (progress is None and is_watched):
        with view(console) as watcher:
            yield watcher
    else:
        yield None
