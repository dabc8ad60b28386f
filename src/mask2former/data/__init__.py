"""Images and their annotations to samples and batches. Knows no model."""
