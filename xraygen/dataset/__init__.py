"""Many films as one DATASET folder."""
