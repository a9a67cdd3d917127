"""The committed studies in one place: what `reports/README.md` says, computed from their evidence."""
