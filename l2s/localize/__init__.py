"""Stage 1: PET planes -> location cue."""
