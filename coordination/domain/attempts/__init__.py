"""Records of ended attempts."""
