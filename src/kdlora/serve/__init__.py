"""A small HTTP server for one model: batches across requests, bounded in every direction."""
