"""Behaviour seen through a real Envoy: one file per feature a user would name."""
