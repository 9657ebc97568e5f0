"""The output of the tasks: results, progress and errors, for people or for programs."""
