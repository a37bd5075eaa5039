"""Distances between laws and between samples, each with an error."""

__all__: list[str] = []
