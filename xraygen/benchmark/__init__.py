"""Beside other libraries: the same work, in turns, in one process."""
