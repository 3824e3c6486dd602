"""n: the parts, their algebra, their counts and formulas, the registry that families fill. Imports nothing of ours."""
