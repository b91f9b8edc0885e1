"""A finished search as an MLflow model, which recommends without Ray.

The model is code that MLflow runs and files that it reads: nothing is pickled.
"""

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from ciess_ray.files.manifest import MANIFEST_FILE
from ciess_ray.result import RESULT_FILE, SearchResult, read_summary
from ciess_ray.serving.files import IDS_FILE, INTERACTIONS_FILE, SCORER_FILE, TABLE_FILE, TEST_FILE

_FILES = {RESULT_FILE, TABLE_FILE, SCORER_FILE, INTERACTIONS_FILE, IDS_FILE, TEST_FILE, MANIFEST_FILE}
_CODE = Path(__file__).with_name("mlflow_recommender.py")
_NUM_EXAMPLES = 3


def can_model(folder: Path) -> bool:
    """Whether a result folder has all that a model needs: a recommender of one's own is elsewhere."""
    return ":" not in read_summary(folder)["config"]["recommender"]["name"]


def save_model(folder: Path, destination: Path) -> None:
    """Write the model of a finished search.

    Its input is a table with a column ``user_id``, as the search's own data names users; its parameter
    ``num_items`` says how many items to recommend each. Its output is a table of ``user_id, rank, item_id,
    score`` with a row for each of them, the best first, and none that the user has interacted with.

    Args:
        folder: Of the search.
        destination: Of the model; must not be there.

    Raises:
        ResultError: The search is not finished or its files are damaged.
    """
    import pandas as pd

    user_ids, item_ids = SearchResult.load(folder).ids()
    asked = pd.DataFrame({"user_id": user_ids[:_NUM_EXAMPLES]})
    answer = pd.DataFrame({"user_id": user_ids[:1], "rank": [1], "item_id": item_ids[:1], "score": [0.5]})
    with warnings.catch_warnings():
        # MLflow warns of its own type hints as it is imported, and of whole numbers, which ids always are.
        warnings.simplefilter("ignore", UserWarning)
        import mlflow.pyfunc

        signature = mlflow.models.infer_signature(asked, answer, {"num_items": 10})
    with TemporaryDirectory(prefix="ciess-ray-") as temporary:
        shutil.copytree(folder, temporary, ignore=lambda _, names: {*names} - _FILES, dirs_exist_ok=True)
        mlflow.pyfunc.save_model(
            str(destination),
            python_model=str(_CODE),
            artifacts={"result": temporary},
            signature=signature,
            input_example=asked,
            pip_requirements=[
                f"{name}=={version(name)}" for name in ("ciess-ray", "numpy", "pandas", "pyarrow", "scipy")
            ],
        )
