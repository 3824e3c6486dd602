"""Models made of models. Every operation says how much of its sources it keeps, and is held to it."""
