"""The LoPE layer, its injection into a model, and what goes with it. Knows no rank."""
