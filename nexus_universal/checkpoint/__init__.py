"""Checkpoints: reversible rules between canonical roles and files, and the reading and writing of those files."""
