"""Edgeward: places AI inference across edge sites and cloud, and keeps every site on the right model."""

__version__ = "0.1.0"
