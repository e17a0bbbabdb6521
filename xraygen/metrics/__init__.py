"""Numbers about sets of images."""
