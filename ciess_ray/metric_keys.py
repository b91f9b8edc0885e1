"""Every metric key of the agent, each once."""

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
#: Table steps taken so far, over all env runners.
NUM_TABLE_STEPS = "search/num_table_steps"

#: Squared error of both critics against the target, mean over users and items, last update.
CRITIC_LOSS = "td3/critic_loss"
#: Minus the value critic 1 gives the actor's actions, last actor update.
ACTOR_LOSS = "td3/actor_loss"
#: Mean value critic 1 gives the actions in the batch.
CRITIC_VALUE = "td3/critic_value"
#: Updates of the critics so far.
NUM_UPDATES = "td3/num_updates"
