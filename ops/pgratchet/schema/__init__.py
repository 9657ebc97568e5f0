"""The schema of a database as text: built from files, read from a database, and compared."""
