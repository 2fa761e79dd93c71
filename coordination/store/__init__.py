"""Everything kept: SQL (the truth) and, under ``volatile``, what Redis holds and may lose.

``tables`` describe, ``queries`` are every statement on one noun inside an open transaction, ``reports`` join for
readers. Nothing here commits: whoever opens a transaction closes it.
"""
