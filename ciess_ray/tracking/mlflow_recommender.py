"""The code of the model of :mod:`ciess_ray.tracking.mlflow_model`: copied into it, and run to load it."""

from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from ciess_ray.serving.recommender import ServedRecommender
from envs.errors import DataError


class PackedRecommender(PythonModel):
    """Recommends items to known users from a packed table."""

    def load_context(self, context: Any) -> None:
        """Open the result folder."""
        self._served = ServedRecommender.open(Path(context.artifacts["result"]))

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
            ConfigError: ``num_items`` is below 1.
        """
        if "user_id" not in model_input:
            raise DataError("the input has no column user_id.")
        wanted = model_input["user_id"].to_numpy()
        best = self._served.recommend(wanted, int((params or {}).get("num_items", 10)))
        columns = zip(("user_id", "rank", "item_id", "score"), self._served.ranked(wanted, best), strict=True)
        return pd.DataFrame(dict(columns)).astype({"score": np.float64})


mlflow.models.set_model(PackedRecommender())
