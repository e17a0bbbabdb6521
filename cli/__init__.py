"""The front door: one file per verb; parse, call one function, print, exit."""
