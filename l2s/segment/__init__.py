"""Stage 2: PET and CT windows -> lesion probability."""
