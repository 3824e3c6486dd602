"""Several models in one file, every tensor byte for byte, coded without loss: the union (tier R0)."""
