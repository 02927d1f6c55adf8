"""Raw interactions to catalog, sequences and splits."""
