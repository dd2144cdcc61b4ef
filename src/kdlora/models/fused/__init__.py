"""A leaner forward and backward pass for encoders of the BERT kind on a processor."""
