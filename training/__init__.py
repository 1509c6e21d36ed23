"""Training of both stages: from cases to weights that process.py loads. See training/README.md."""
