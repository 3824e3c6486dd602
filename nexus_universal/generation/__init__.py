"""Turning logits into text: settings, sampling, the loop."""
