"""Checks before a run (`invoke doctor`) and before a merge (`invoke ci`)."""
