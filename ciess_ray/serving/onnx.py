"""A packed table's scorer as an ONNX graph: from rows of users to the scores of all items."""

import numpy as np

from ciess_ray.serving.scorers import NCFScorer, Scorer
from envs.errors import ConfigError

_OPSET = 17
_IR_VERSION = 8


def onnx_model(scorer: Scorer, num_users: int) -> bytes:
    """The graph, with input ``user`` (n,), int64, and output ``score`` (n, num_items), float32.

    Representations are stored as they are scored, without packing: ONNX has no rows of different sizes.

    Args:
        scorer: Of a recommender of this package.
        num_users: Known users.

    Raises:
        ConfigError: The package onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ConfigError("the format onnx needs an extra: pip install 'ciess-ray[onnx]'.") from error
    constants = {"users": scorer.of_users(np.arange(num_users))}
    nodes = [helper.make_node("Gather", ["users", "user"], ["row"])]
    if isinstance(scorer, NCFScorer):
        constants |= scorer.constants()
        constants["zero_axis"] = np.array([1], np.int64)
        constants["split"] = np.array(
            [constants["hidden_item"].shape[1], constants["product_item"].shape[0]], np.int64
        )
        nodes += [
            helper.make_node("Split", ["row", "split"], ["hidden", "product"], axis=1),
            helper.make_node("Unsqueeze", ["hidden", "zero_axis"], ["hidden_of_pairs"]),
            helper.make_node("Add", ["hidden_of_pairs", "hidden_item"], ["pairs"]),
            helper.make_node("Relu", ["pairs"], ["active"]),
            helper.make_node("MatMul", ["active", "output_hidden"], ["score_hidden"]),
            helper.make_node("MatMul", ["product", "product_item"], ["score_product"]),
            helper.make_node("Add", ["score_hidden", "score_product"], ["unbiased"]),
            helper.make_node("Add", ["unbiased", "output_bias"], ["score"]),
        ]
    else:
        constants["items"] = np.ascontiguousarray(scorer.item.T)
        nodes.append(helper.make_node("MatMul", ["row", "items"], ["score"]))
    graph = helper.make_graph(
        nodes,
        "ciess-ray scorer",
        [helper.make_tensor_value_info("user", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", "num_items"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
