"""Tables, plots and the HTML page, from JSON files only."""
