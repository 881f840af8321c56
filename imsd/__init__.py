"""imsd: an open Image Management Service."""
