"""Records of runs on disk: the schema, atomic writes, and one tidy frame of them all."""
