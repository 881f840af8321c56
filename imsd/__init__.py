"""imsd: an open Image Management Service."""

__version__ = "0.1.0"
