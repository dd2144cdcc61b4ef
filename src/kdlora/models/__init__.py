"""Encoders, adapters and the linear baselines."""
