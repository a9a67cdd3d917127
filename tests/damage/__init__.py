"""Damaged files in bulk, and what the commands make of them."""
