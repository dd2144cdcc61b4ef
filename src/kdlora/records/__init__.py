"""Records of runs on disk: the schema, atomic writes, leases, and one tidy frame. No torch."""
