"""Applies migrations: in transactions and without, under the lock, with retries and after lost connections."""
