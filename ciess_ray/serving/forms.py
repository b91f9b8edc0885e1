"""What a form of a table costs on test."""

from collections.abc import Callable

from scipy.sparse import csr_array

from ciess_ray.packed.embedding import unpack_recommender
from ciess_ray.serving.files import TEST_FILE, TableFolder
from envs.recommenders import RECOMMENDERS
from envs.recommenders.evaluation import evaluate


def ndcg_of_forms(
    source: TableFolder, made: TableFolder, make: Callable[[TableFolder], TableFolder]
) -> tuple[float, float] | str:
    """N@20 of a table and of another form of it, or why it cannot be measured.

    One that was trained on test says nothing there: the table that was measured beside it, of the same sizes,
    is brought into that form, and both figures are its.

    Args:
        source: The table.
        made: It in the other form.
        make: Brings another table into that form.
    """
    if source.scorer.recommender not in RECOMMENDERS:
        return f"{source.scorer.recommender} is a recommender of your own"
    if source.test is None:
        return f"there is no {TEST_FILE} in {source.path}"
    judged = source.measured()
    if judged is None:
        return f"the table was trained on {TEST_FILE} too; the folder of its search has one that was not"
    of_made = made if judged is source else make(judged)
    return _ndcg(judged, source.test), _ndcg(of_made, source.test)


def _ndcg(folder: TableFolder, test: csr_array) -> float:
    """N@20 on the test interactions."""
    scorer = folder.scorer
    recommender = unpack_recommender(
        folder.table, folder.train, scorer.recommender, scorer.options, scorer.state
    )
    return evaluate(recommender, folder.train, test, (20,)).summary()["ndcg@20"]
