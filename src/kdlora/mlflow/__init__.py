"""A mirror of the records in MLflow."""
