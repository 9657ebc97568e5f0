"""Shows results and progress: to people in a terminal, to programs as JSON."""
