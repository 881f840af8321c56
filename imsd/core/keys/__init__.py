"""Keys, and the data keys of encrypted images: see ../README.md."""
