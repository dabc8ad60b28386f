"""Using a model: predictor, networks, tiles, test-time augmentation, tracking, and loops over files."""
