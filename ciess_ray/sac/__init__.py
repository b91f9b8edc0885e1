"""SCALL's policy of whole tables, on RLlib's own soft actor-critic; ``policy.py`` lists the differences."""
