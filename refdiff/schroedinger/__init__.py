"""Schroedinger bridges: of all processes with two given marginals the nearest to a reference."""

__all__: list[str] = []
