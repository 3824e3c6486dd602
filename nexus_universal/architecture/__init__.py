"""n: the parts, their algebra, their counts and formulas, and the registry that families fill. Imports nothing of ours."""
