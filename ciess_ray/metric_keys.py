"""Every metric key, each once; docs/metrics.md explains them."""

NUM_DECILES = 10

#: Executed parameters as a share of the full table's, mean over the table steps of an iteration.
KEPT_RATIO = "search/kept_ratio"
#: Mean proposed size as a share of d_max, exploration included.
PROPOSED_RATIO = "search/proposed_ratio"
#: Mean size the actors themselves ask for, as a share of d_max; what the dual ascent holds to the target.
GREEDY_RATIO = "search/greedy_ratio"
#: Mean ranking metric over users, as the environment measured it.
QUALITY = "search/quality"
#: Mean entity reward at the λ of the step.
REWARD = "search/reward"
#: λ, what one squared kept ratio costs in quality, after the iteration.
MEMORY_WEIGHT = "search/memory_weight"
#: What critic 1 values the end of a walk more than its start, mean over entities; 0 without a walk.
WALK_GAIN = "search/walk_gain"
#: Mean executed size of users in each tenth of their popularity, the least popular first.
USER_SIZE_DECILES = tuple(f"search/user_size_decile_{i}" for i in range(1, NUM_DECILES + 1))
#: The same of items.
ITEM_SIZE_DECILES = tuple(f"search/item_size_decile_{i}" for i in range(1, NUM_DECILES + 1))
#: Table steps taken so far, over all env runners.
NUM_TABLE_STEPS = "search/num_table_steps"

#: Seconds that a step trained its recommender, as the environment measured them.
TRAIN_S = "recommender/train_s"
#: Seconds that a step evaluated its recommender.
EVALUATE_S = "recommender/evaluate_s"

#: Squared error of both critics against the target, mean over users and items, last update.
CRITIC_LOSS = "td3/critic_loss"
#: Minus the value critic 1 gives the actor's actions, last actor update.
ACTOR_LOSS = "td3/actor_loss"
#: Mean value critic 1 gives the actions in the batch.
CRITIC_1_VALUE = "td3/critic_1_value"
#: Mean value critic 2 gives the actions in the batch.
CRITIC_2_VALUE = "td3/critic_2_value"
#: Mean distance of critic 1's values from the target.
TD_ERROR = "td3/td_error"
#: Updates of the critics so far.
NUM_UPDATES = "td3/num_updates"
#: Seconds until every env runner had taken its step.
SAMPLE_S = "td3/sample_s"
#: Seconds of the updates, draws from the replay buffer included.
LEARN_S = "td3/learn_s"
#: Seconds until the weights were on their way to the env runners.
SYNC_WEIGHTS_S = "td3/sync_weights_s"

#: How the keys begin of what is measured on test at the end: the search's table, equal sizes, full size.
TEST, TEST_EQUAL, TEST_FULL = "test", "test_equal", "test_full"
#: What stands there beside the test metrics: parameters, their share of the full table's, bytes.
TABLE_FIGURES = ("num_params", "kept_ratio", "packed_bytes", "served_bytes")

#: What people are told of the ranking metrics wherever they first stand.
RANKING_TERMS = {
    "R@20": "Recall@20, the share of a user's test items that are among the first 20 recommended",
    "N@20": "NDCG@20, which also counts how far up they stand",
    "quality": "the mean of recall and NDCG at 5, 10 and 20 on validation, by which everything is chosen",
}

#: The same in a line below a table.
RANKING_NOTE = "; ".join(f"{name}: {RANKING_TERMS[name]}" for name in ("R@20", "N@20")) + "; means over users"
