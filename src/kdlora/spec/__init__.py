"""What to do: the study file, the runs it means, and the tasks and names it may use."""
