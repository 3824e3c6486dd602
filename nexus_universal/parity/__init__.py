"""The proof: references, floors, modes, laws, and the certificate that says what was seen."""
