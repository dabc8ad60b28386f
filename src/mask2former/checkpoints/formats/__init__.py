"""Names that code bases give the entries of a model, next to the original ones; one module each."""
