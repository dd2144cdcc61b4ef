"""What to do: the study file, its checks, and the runs it means."""
