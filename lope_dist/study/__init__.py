"""Studies: many runs and their evaluation from one file, executed, compared and judged."""
