"""The mathematics: one module per part of n, named by what it computes."""
