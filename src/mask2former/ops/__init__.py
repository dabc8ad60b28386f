"""Pure functions on tensors and masks; imports nothing of ours but the errors."""
