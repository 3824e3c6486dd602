"""Models merged tensor by tensor over canonical roles, so that every family goes through the same code."""
