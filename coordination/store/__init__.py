"""Persistence: SQL, the source of truth, and in ``redis`` what may be lost.

``tables`` describe, ``queries`` are the statements on one noun inside an open transaction, ``reports`` join tables for
readers. Nothing here commits, except ``engine``.
"""
