"""Diffusion as physics: currents and controls, heat and entropy, potentials between classes."""

__all__: list[str] = []
