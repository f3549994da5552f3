"""The harness: from a plan through cells, workers and the store to frames and tables."""
