"""Laws of whole paths: likelihood ratios, divergences, reversals, bridges, and what paths cost."""

__all__: list[str] = []
