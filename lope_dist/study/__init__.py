"""Studies: many runs and their evaluation from one file, executed, compared and judged.

For research; a run needs none of it. Not here: how a single run is trained or scored.
"""
