"""Where a run's figures go beside `metrics.jsonl`: one file for each tracker.

Not here: `metrics.jsonl` itself, which a run cannot do without.
"""
