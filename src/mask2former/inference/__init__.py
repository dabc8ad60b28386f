"""Using a model: predictor, networks, tiles, test-time augmentation, tracking, and the loops over files."""
