"""Anybody's data before training: what format it is in, what is wrong with it, and a run that suits it.

Asks no model.
"""
