"""Ways in: each translates to a model and calls fit."""
