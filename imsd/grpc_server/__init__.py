"""Thin servicers, interceptors, conversions, the one error table."""
