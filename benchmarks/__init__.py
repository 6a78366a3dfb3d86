"""Measurements, each beside a reference in the same run, so that a ratio means something on any machine."""
