"""The words that everything shares: tasks, metrics, arms and quantities. Imports nothing heavy."""
