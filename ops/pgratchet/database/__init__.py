"""Connections to PostgreSQL: opening and inspecting them, the session and lock of a run, and the history table."""
