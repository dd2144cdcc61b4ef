"""kdlora: distil a large fine-tuned encoder into a small LoRA-tuned one, and prove it was worth it."""

__version__ = "0.1.0"
