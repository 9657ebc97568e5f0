"""The tools whose history can be adopted, with a module for each."""
