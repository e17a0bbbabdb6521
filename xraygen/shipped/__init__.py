"""Models that ship with xraygen: a RUN each, as `xraygen export --to run` writes it."""
