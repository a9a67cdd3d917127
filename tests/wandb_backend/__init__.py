"""A Weights & Biases backend on loopback for tests: `backend.Backend`."""
