"""A mirror of the records in a tracker of experiments: MLflow or Trackio."""
