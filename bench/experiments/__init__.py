"""What is asked for: suites and their experiments, recipes, and the plan of runs they make."""
