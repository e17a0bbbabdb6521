"""Beside others: the same work as other libraries do, in turns; the setups of a paper, with its figures."""
