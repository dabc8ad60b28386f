"""Pure functions on tensors and masks; imports nothing else of this package but the errors."""
