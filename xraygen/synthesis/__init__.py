"""RUN -> SYNTHETIC and PATH: sets of synthetic films and interpolations between two real ones."""
