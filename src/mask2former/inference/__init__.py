"""Using a model: predictor and evaluation loop."""
