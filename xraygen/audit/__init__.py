"""SYNTHETIC -> REPORT: how good the images are, and whether any is a copy of a patient."""
