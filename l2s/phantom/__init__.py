"""Synthetic whole-body FDG PET/CT with true lesion masks: read sample.py first."""
