"""Where the one class meets what people already use: transformers, and what is built on it."""
