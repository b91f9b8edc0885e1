"""An MLflow tracking store and the runs in it.

One process writes: the driver of a search or of a sweep. A thread of its own does so, in the order in which
it is told, so that a tracking server that is slow, or gone for a while, keeps nobody waiting and loses
nothing.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.run import TrackingConfig
from ciess_ray.plain_text import command
from ciess_ray.tracking.mlflow_connection import connect, told
from ciess_ray.tracking.mlflow_run import CLOSE_S, MlflowRun, Row, Write, is_lasting

#: MLflow refuses longer values of parameters, and larger batches of metrics and of parameters.
_MAX_PARAM_LENGTH, _MAX_METRICS, _MAX_PARAMS = 6000, 1000, 100
_KEY_TAG = "ciess_ray.key"
_PARENT_TAG = "mlflow.parentRunId"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
#: After how long somebody who waits for uploads is told so.
_NOTICE_S = 10.0


class MlflowStore:
    """One tracking store and the thread that writes to it.

    Writes are taken up in order. One that fails is tried again until it succeeds, with pauses that grow, and
    what comes after it waits; one that can never succeed is given up and told of by :meth:`close`. A metric's
    time is that of its logging, so that a batch which did arrive is the same when it is written again, and
    the store keeps it once.

    Args:
        tracking: Where, and in which experiment.
        folder: Of the search, sweep or comparison, from which ``ciess-ray track`` sends what was not taken.

    Attributes:
        uri: As it may be shown, without its secret.
        client: MLflow's.
        last_error: What it said of the write that is tried again.

    Raises:
        ConfigError: MLflow cannot record there.
    """

    def __init__(self, tracking: TrackingConfig, folder: Path | str) -> None:
        self.uri, self._folder = without_secrets(tracking.uri), folder
        self.client, self._experiment_id = connect(tracking)
        self._writes: deque[Row | Write] = deque()
        self._changed = threading.Condition()
        self._num_in_hand = 0
        self._is_closing = self._is_given_up = False
        self._failing_since: float | None = None
        self.last_error = ""
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Writes that the store has not taken yet."""
        return len(self._writes) + self._num_in_hand

    def run(
        self,
        key: str | None,
        name: str,
        *,
        params: Iterable[tuple[str, str]] = (),
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        parent: MlflowRun | None = None,
    ) -> MlflowRun:
        """A run, found again or begun; returns at once, and the thread does it.

        Args:
            key: A name of one's own by which it is found again; None for one that nobody else knows.
            name: What MLflow shows.
            params: Logged where the run does not have them.
            tags: Of a run that is new.
            run_id: MLflow's own name of a run to go on with; where the store has lost it, another is begun.
            parent: The run that it belongs to.
        """
        run = MlflowRun(self)
        params, tags = list(params), dict(tags or {})
        # A run that was begun, and whose store's answer was lost, is found by its key too.
        known = key or uuid.uuid4().hex
        self.put(Write(run, lambda: self._begin(run, known, name, params, tags, run_id, parent)))
        return run

    def close(self, timeout_s: float = CLOSE_S) -> list[str]:
        """Wait for what is not written yet and end the thread; Ctrl-C ends the waiting.

        It takes as long as it takes, however large the files are, unless the store fails for so long.

        Args:
            timeout_s: Seconds of nothing but failures after which the rest is given up.

        Returns:
            A sentence on each thing that the store did not take; it is told once.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            with contextlib.suppress(KeyboardInterrupt):
                self._wait_for_writes(timeout_s)
            problems, self._problems = self._problems, []
            num_left = self.num_waiting
            if num_left:
                why = f": {self.last_error}" if self._failing_since is not None else ""
                problems.append(
                    f"MLflow at {self.uri} did not take the last {num_left:,} writes{why}. {self._remedy()}"
                )
            self._is_given_up = True
            self._writes.clear()
            self._changed.notify_all()
        if not num_left:
            self._thread.join()
        return problems

    def close_telling(self, timeout_s: float = CLOSE_S) -> None:
        """The same, where nobody else would tell what the store did not take."""
        tell_problems(self.close(timeout_s))

    def _wait_for_writes(self, timeout_s: float) -> None:
        """Until everything is written, or the store has failed for so long; the lock is held."""
        started, is_told = time.monotonic(), False
        while self.num_waiting:
            now, ends = time.monotonic(), []
            if self._failing_since is not None:
                ends.append(max(self._failing_since, started) + timeout_s)
                if now >= ends[0]:
                    return
            if not is_told:
                ends.append(started + _NOTICE_S)
                if now >= ends[-1]:
                    is_told = True
                    logging.getLogger(__name__).warning(
                        f"MLflow at {self.uri}: {self.num_waiting:,} writes are still under way; Ctrl-C "
                        f"leaves them. {self._remedy()}"
                    )
                    continue
            self._changed.wait(min(ends) - now if ends else None)

    def _remedy(self) -> str:
        return f"Send what is left: {command('ciess-ray', 'track', self._folder)}"

    def put(self, write: Row | Write) -> None:
        """Have it written once all that came before it is."""
        with self._changed:
            self._writes.append(write)
            self._changed.notify_all()

    def _work(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            with self._changed:
                while not self._writes and not self._is_closing:
                    self._changed.wait()
                if not self._writes:
                    return
                first = self._writes.popleft()
                rows = self._following(first) if isinstance(first, Row) else []
                taken: list[Row | Write] = [*rows] or [first]
                self._num_in_hand = len(taken)
            failure = None
            try:
                if first.run.error is not None:
                    # It never began, which is told already.
                    pass
                elif isinstance(first, Row):
                    first.run.write(rows)
                else:
                    first.do()
            except Exception as error:
                failure = error
            with self._changed:
                self._num_in_hand = 0
                self._changed.notify_all()
                if failure is None or is_lasting(failure):
                    self._failing_since, pause_s = None, _FIRST_PAUSE_S
                    if failure is not None:
                        self._refuse(first.run, failure)
                    continue
                if self._is_given_up:
                    return
                self.last_error = told(failure)
                self._failing_since = self._failing_since or time.monotonic()
                self._writes.extendleft(reversed(taken))
                # News of other writes must not make the next attempt come sooner, the end of all may.
                self._changed.wait_for(
                    lambda: self._is_given_up, min(pause_s, 1.0 if self._is_closing else pause_s)
                )
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _refuse(self, run: MlflowRun, failure: Exception) -> None:
        """A write can never succeed; where it was to begin a run, there is no such run."""
        problem = f"MLflow at {self.uri} refused a write: {told(failure)}"
        self._problems.append(problem)
        if run.run_id is None:
            run.fail(problem)

    def _following(self, first: Row) -> list[Row]:
        """The row and those of the same run right behind it, as many as fit into one batch."""
        rows, size = [first], len(first.metrics)
        while self._writes:
            row = self._writes[0]
            if not isinstance(row, Row) or row.run is not first.run or size + len(row.metrics) > _MAX_METRICS:
                break
            size += len(row.metrics)
            rows.append(row)
            self._writes.popleft()
        return rows

    def _begin(
        self,
        run: MlflowRun,
        key: str,
        name: str,
        params: list[tuple[str, str]],
        tags: dict[str, str],
        run_id: str | None,
        parent: MlflowRun | None,
    ) -> None:
        from mlflow.entities import Param, ViewType

        known = self._found(run_id)
        if known is None:
            found = self.client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`{_KEY_TAG}` = '{key}'",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1,
            )
            known = found[0] if found else None
        is_new = known is None
        if known is None:
            tags = tags | {_KEY_TAG: key}
            tags |= {_PARENT_TAG: parent.run_id} if parent is not None and parent.run_id is not None else {}
            known = self.client.create_run(self._experiment_id, run_name=name, tags=tags)
        else:
            self.client.update_run(known.info.run_id, status="RUNNING")
        there = known.data.params
        entities = [Param(name, value[:_MAX_PARAM_LENGTH]) for name, value in params if name not in there]
        for first in range(0, len(entities), _MAX_PARAMS):
            self.client.log_batch(known.info.run_id, params=entities[first : first + _MAX_PARAMS])
        run.take(known.info.run_id, is_new=is_new)

    def _found(self, run_id: str | None) -> Any:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None


def tell_problems(problems: Iterable[str]) -> None:
    """What a store did not take, where nobody else would tell it."""
    for problem in problems:
        logging.getLogger(__name__).warning(problem)
