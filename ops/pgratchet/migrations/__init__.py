"""Migration files and SQL: reading and checking files, lexing statements, and planning a run."""
