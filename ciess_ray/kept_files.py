"""Files that several processes need and one of them makes."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import ray

from ciess_ray.storage import Storage

#: A claim ends so long after its holder was last heard of.
_CLAIM_S = 30.0
_RENEW_S = 5.0
_WAIT_S = 0.5
#: Within the storage of a sweep.
CACHE_FOLDER = "cache"


class Keeper(Protocol):
    """Decides who makes a file."""

    def once(self, file: Path) -> AbstractContextManager[None]:
        """Within the block the file is there, or the caller alone may make it; waits for another who does."""


class NullKeeper:
    """Everybody may."""

    def once(self, file: Path) -> AbstractContextManager[None]:
        """See :class:`Keeper`."""
        return contextlib.nullcontext()


NULL_KEEPER = NullKeeper()


class Claims:
    """Who makes which file at the moment; a Ray actor, one a sweep.

    A process that dies stops renewing its claim, which ends soon after.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, float]] = {}

    def claim(self, name: str, who: str) -> bool:
        """Claim a file, or renew a claim; False where another holds it."""
        now = time.monotonic()
        holder, until = self._held.get(name, (who, now))
        if holder != who and now < until:
            return False
        self._held[name] = who, now + _CLAIM_S
        return True

    def release(self, name: str, who: str) -> None:
        """End a claim."""
        if self._held.get(name, ("", 0.0))[0] == who:
            del self._held[name]


class SharedKeeper:
    """Makes each file once in a sweep and shares it through the sweep's storage.

    Args:
        storage: Of the sweep.
        claims: Handle of a :class:`Claims` actor.
    """

    def __init__(self, storage: Storage, claims: Any) -> None:
        self._storage, self._claims = storage, claims

    @contextlib.contextmanager
    def once(self, file: Path) -> Iterator[None]:
        """See :class:`Keeper`."""
        place, who = f"{CACHE_FOLDER}/{file.name}", uuid.uuid4().hex
        while not file.exists():
            if self._storage.has(place):
                self._storage.download(place, file)
            elif ray.get(self._claims.claim.remote(file.name, who)):
                break
            else:
                time.sleep(_WAIT_S)
        if file.exists():
            yield
            return
        is_over = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(file.name, who, is_over), daemon=True)
        renewal.start()
        try:
            # It may have been finished between the look and the claim.
            if self._storage.has(place):
                self._storage.download(place, file)
                yield
                return
            yield
            if file.exists():
                self._storage.upload(file, place)
        finally:
            is_over.set()
            renewal.join()
            self._claims.release.remote(file.name, who)

    def _renew(self, name: str, who: str, is_over: threading.Event) -> None:
        while not is_over.wait(_RENEW_S):
            # An actor that is being started anew knows of no claims; the worst is a file made twice.
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._claims.claim.remote(name, who))
