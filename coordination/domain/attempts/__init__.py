"""Records of ended attempts. Pure."""
