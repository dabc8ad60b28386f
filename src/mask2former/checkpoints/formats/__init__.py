"""The names that code bases use for the entries of a model, compared with the original ones; one module each."""
