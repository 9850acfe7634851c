"""Learns which LLMs of a pool to ask, per query, so that their vote is right, fast."""
