"""Rehearses migrations on a restored backup: the locks, rewrites and durations of each statement."""
