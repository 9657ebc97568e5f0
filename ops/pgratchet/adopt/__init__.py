"""Adopts the history of another migration tool, or a database without a history."""
