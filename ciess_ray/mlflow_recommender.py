"""The code of the model that :mod:`ciess_ray.mlflow_model` writes: copied into it, and run to load it."""

from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc.model import PythonModel

from ciess_ray.result import SearchResult
from envs.errors import DataError

#: Scores held at once.
_MAX_SCORES = 10_000_000


class PackedRecommender(PythonModel):
    """Recommends items to known users from a packed table."""

    def load_context(self, context: Any) -> None:
        """Read the result folder."""
        result = SearchResult.load(Path(context.artifacts["result"]))
        self._recommender = result.recommender()
        self._seen = result.train
        user_ids, self._item_ids = result.ids()
        self._users = pd.Index(user_ids)
        with torch.no_grad():
            self._encoded = self._recommender.encode()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The items that each user is most likely to want and has not had.

        Args:
            context: Of MLflow.
            model_input: A table with a column ``user_id``.
            params: ``num_items`` for each user, 10 where it is not given.

        Raises:
            DataError: The column is missing, or users are not known.
        """
        if "user_id" not in model_input:
            raise DataError("the input has no column user_id.")
        wanted = model_input["user_id"]
        rows = self._users.get_indexer(wanted)
        if (rows < 0).any():
            unknown = ", ".join(map(str, wanted[rows < 0].unique()[:5]))
            raise DataError(f"user_id: {int((rows < 0).sum()):,} users are not in the table, e.g. {unknown}.")
        num_items = min(int((params or {}).get("num_items", 10)), len(self._item_ids))
        if num_items < 1:
            raise DataError(f"num_items={num_items}: ask for at least one item.")
        at_once = max(1, _MAX_SCORES // len(self._item_ids))
        tables = [self._recommend(rows[i : i + at_once], num_items) for i in range(0, len(rows), at_once)]
        return pd.concat(tables, ignore_index=True) if tables else self._recommend(rows, num_items)

    def _recommend(self, rows: np.ndarray, num_items: int) -> pd.DataFrame:
        with torch.no_grad():
            scores = self._recommender.score(self._encoded, torch.from_numpy(rows)).numpy().astype(np.float64)
        seen = self._seen[rows]
        scores[np.repeat(np.arange(len(rows)), np.diff(seen.indptr)), seen.indices] = -np.inf
        best = np.argpartition(-scores, num_items - 1, axis=1)[:, :num_items]
        of_best = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-of_best, axis=1, kind="stable")
        best, of_best = np.take_along_axis(best, order, axis=1), np.take_along_axis(of_best, order, axis=1)
        is_new = np.isfinite(of_best)
        users, ranks = np.nonzero(is_new)
        return pd.DataFrame(
            {
                "user_id": self._users.to_numpy()[rows[users]],
                "rank": ranks + 1,
                "item_id": self._item_ids[best[is_new]],
                "score": of_best[is_new],
            }
        )


mlflow.models.set_model(PackedRecommender())
