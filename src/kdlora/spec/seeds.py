"""One random stream per purpose, all derived from a run's seed."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, purpose: str) -> int:
    """A seed below 2^31 for one purpose ("init", "order", "dropout") of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:4], "big") >> 1
