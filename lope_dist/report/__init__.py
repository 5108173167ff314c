"""Tables, plots and one HTML page from a run folder's JSON files. Never imports torch."""
