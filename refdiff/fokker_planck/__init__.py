"""Densities on grids: the Fokker-Planck and the backward equation by finite volumes, and what is read off them."""

__all__: list[str] = []
